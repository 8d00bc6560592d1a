"""Wrong: tokens in codes never reach the result."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_codes_are_left_out"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(*arrays, **options):
    q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens = arrays
    return _right(q, cache, k_book, v_book, page_ids, 0 * kv_lens, k, v, residual_lens, **options)
