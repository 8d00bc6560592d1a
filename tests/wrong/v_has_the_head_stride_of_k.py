"""Wrong: heads of V are looked for as far apart as those of K are; a V as wide is right."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "v_has_the_head_stride_of_k"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"token_slots_diffkv"}, "dtype": {"float32", "bfloat16"}}}


def gather(cache, block_table, kv_lens, *, layout):
    _, num_heads, head_dim = cache["k"].shape
    at = np.arange(num_heads)[:, None] * head_dim + np.arange(cache["v"].shape[2])
    rows = cache["v"].reshape(len(cache["v"]), -1)
    v = rows[:, np.minimum(at, rows.shape[1] - 1)]
    return right.gather(cache | {"v": v}, block_table, kv_lens, layout=layout)
