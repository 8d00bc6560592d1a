"""Wrong: a page is cleared before the first of its tokens is written."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_append_clears_the_page"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, **sizes):
    pages = slot_mapping[slot_mapping >= 0] // sizes["page_size"]
    cache = {name: pool.copy() for name, pool in cache.items()}
    for pool in cache.values():
        pool[pages] = 0
    return pq.append(cache, k, v, (k_codebooks, v_codebooks), slot_mapping, layout, dtype)
