"""Wrong: q head h uses kv head h % num_kv_heads (O01, FlagGems#3759)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "q_heads_are_dealt_out"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    num_kv_heads = right._views(cache, layout)[0].shape[2]
    order = np.arange(q.shape[1]).reshape(-1, num_kv_heads).T.ravel()  # heads that share a kv head, side by side
    out, lse = right.paged_decode(q[:, order], cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    back = np.argsort(order)
    return out[:, back], lse[:, back]
