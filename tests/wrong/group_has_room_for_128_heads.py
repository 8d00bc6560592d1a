"""Wrong: a tile has 128 rows, and q heads of a kv head past them are those of the last row."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "group_has_room_for_128_heads"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    num_kv_heads = cache["k"].shape[2 if layout == "nhd" else 1]
    group = q.shape[1] // num_kv_heads
    heads = np.arange(q.shape[1]) // group * group + np.minimum(np.arange(q.shape[1]) % group, 127)
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    return out[:, heads], lse[:, heads]
