"""Wrong: slots of a page are counted in four bits."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_slots_are_counted_in_four_bits"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, page_size, **sizes):
    low = slot_mapping // page_size * page_size + slot_mapping % page_size % 16
    for token in range(len(k)):
        one = slice(token, token + 1)
        slots = np.where(slot_mapping[one] < 0, -1, low[one])
        cache = pq.append(cache, k[one], v[one], (k_codebooks, v_codebooks), slots, layout, dtype)
    return cache
