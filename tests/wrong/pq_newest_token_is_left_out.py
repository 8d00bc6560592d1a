"""Wrong: the newest token that is not coded is left out."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_newest_token_is_left_out"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(*arrays, **options):
    q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens = arrays
    residual_lens = np.maximum(residual_lens - 1, 0)
    return _right(q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens, **options)
