"""Wrong: lse is written for the first q head of each group (O81)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "lse_of_one_head_a_group"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    group = q.shape[1] // right._views(cache, layout)[0].shape[2]
    lse[:, np.arange(q.shape[1]) % group != 0] = 0
    return out, lse
