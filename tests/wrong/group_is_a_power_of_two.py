"""Wrong: q head h uses kv head h // p, p the next power of two above group (O02)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "group_is_a_power_of_two"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    num_kv_heads = right._views(cache, layout)[0].shape[2]
    group = q.shape[1] // num_kv_heads
    head = np.arange(q.shape[1]) // (1 << (group - 1).bit_length())
    every = np.repeat(q, num_kv_heads, 1)  # each q head meets each kv head, and the wrong one is kept
    spread = every.reshape(*q.shape[:2], num_kv_heads, -1).swapaxes(1, 2).reshape(every.shape)
    out, lse = right.paged_decode(spread, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    keep = head * q.shape[1] + np.arange(q.shape[1])
    return out[:, keep], lse[:, keep]
