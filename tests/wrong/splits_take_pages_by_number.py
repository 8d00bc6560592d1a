"""Wrong: split i takes the pages whose number is i modulo num_splits, wherever in a sequence they stand (I13)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "splits_take_pages_by_number"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "num_splits": range(1, 8)})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits):
    views = right._views(cache, layout)
    size, heads = views[0].shape[1:3]
    out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    for seq, n in enumerate(kv_lens):
        pages, slots = block_table[seq, np.arange(n) // size], np.arange(n) % size
        k, v = (right.sequence(view, (pages, slots)) for view in views)
        split_of = pages % num_splits
        keys = [np.flatnonzero(split_of == split) for split in range(num_splits)]
        grouped = q[seq].reshape(heads, -1, q.shape[-1])
        parts = [right._online_softmax(grouped, k[some], v[some], sm_scale) for some in keys]
        mean, total = right._merge(*map(np.stack, zip(*parts, strict=True)))
        out[seq], lse[seq] = mean.reshape(out[seq].shape), total.ravel()
    return out, lse


append_decode = fused(paged_decode)
