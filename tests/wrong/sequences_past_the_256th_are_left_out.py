"""Wrong: the grid has 256 blocks at most, and a sequence has one."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "sequences_past_the_256th_are_left_out"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    out[256:], lse[256:] = 0, -np.inf
    return out, lse
