"""Wrong: rows of the residual count whatever residual_lens says."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_residual_is_read_whole"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(*arrays, **options):
    q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens = arrays
    rows = np.full_like(residual_lens, k.shape[1])
    return _right(q, cache, k_book, v_book, page_ids, kv_lens, k, v, rows, **options)
