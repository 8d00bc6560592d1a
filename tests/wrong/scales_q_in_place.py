"""Wrong: q is scaled where it lies (O82b)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "scales_q_in_place"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    q *= np.float32(sm_scale)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=1.0)
