"""Wrong: all sequences read the pages of the first one."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_pages_of_sequence_0"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(*arrays, **options):
    q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens = arrays
    page_ids = np.repeat(page_ids[:1], len(page_ids), 0)
    return _right(q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens, **options)
