"""Wrong: of two codes in a byte the high half is taken for the first."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_nibbles_change_places"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint4"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(*arrays, **options):
    q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens = arrays
    cache = {name: pool >> 4 | pool << 4 for name, pool in cache.items()}
    return _right(q, cache, k_book, v_book, page_ids, kv_lens, k, v, residual_lens, **options)
