"""Wrong: a packed index has six bits for the kv head, and the 65th is the first again."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "kv_heads_are_counted_in_six_bits"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    num_kv_heads = cache["k"].shape[2 if layout == "nhd" else 1]
    q_heads = np.arange(q.shape[1]).reshape(num_kv_heads, -1)
    out, lse = (np.empty(shape, dtype) for shape, dtype in ((q.shape, q.dtype), (q.shape[:2], np.float32)))
    for head, rows in enumerate(q_heads):
        swapped = q.copy()
        swapped[:, q_heads[head % 64]] = q[:, rows]
        got = right.paged_decode(swapped, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
        out[:, rows], lse[:, rows] = (one[:, q_heads[head % 64]] for one in got)
    return out, lse
