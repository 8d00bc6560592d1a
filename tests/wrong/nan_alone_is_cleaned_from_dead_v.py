"""Wrong: NaN in dead V becomes 0 before it meets a weight of 0, an infinity does not (O30)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "nan_alone_is_cleaned_from_dead_v"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    v = right._views(cache, layout)[1]
    for seq, n in enumerate(kv_lens):
        tail = v[block_table[seq, : -(-n // v.shape[1])]].reshape(-1, *v.shape[2:])[n:].astype(np.float32)
        leak = (0 * np.where(np.isnan(tail), 0, tail)).sum(0)  # what weights of 0 add to each kv head
        out[seq] += np.repeat(leak, q.shape[1] // len(leak), axis=0).astype(out.dtype)
    return out, lse
