"""Right: each q head of each sequence is a program of its own that knows of no other, and says so."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "every_head_of_every_row_is_alone"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"hnd", "nhd"}, "dtype": {"float32"}}}
CONVENTIONS = {"invariances": {"batch", "heads", "layouts"}}
ARITHMETIC = numpy_ref.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    k, v = (rows.astype(np.float32) for rows in numpy_ref.gather(cache, block_table, kv_lens, layout=layout))
    group = q.shape[1] // k.shape[1]
    out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    for seq, head in np.ndindex(*q.shape[:2]):
        keys = slice(kv_lens[:seq].sum(), kv_lens[: seq + 1].sum())
        one = q[None, seq, head, None].astype(np.float32)
        kv = (np.ascontiguousarray(side[keys, head // group, None]) for side in (k, v))
        mean, total = numpy_ref._online_softmax(one, *kv, sm_scale)
        out[seq, head], lse[seq, head] = mean[0, 0].astype(q.dtype), total[0, 0]
    return out, lse
