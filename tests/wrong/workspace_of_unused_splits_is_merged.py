"""Wrong: a split without keys writes nothing, and its part of the workspace is merged like any other."""

from itertools import pairwise

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "workspace_of_unused_splits_is_merged"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "num_splits": range(2, 8), "into": {"workspace"}},
}
CONVENTIONS = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}
ARITHMETIC, WORKSPACE = right.ARITHMETIC, {"paged_decode": right.WORKSPACE["paged_decode"]}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits, workspace=None):
    k, v = right.gather(cache, block_table, kv_lens, layout=layout)
    shape = (num_splits, k.shape[1], q.shape[1] // k.shape[1], q.shape[2])
    out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    outs, lses = right._partials(workspace, *shape)
    if workspace is None:
        outs[...], lses[...] = 0, -np.inf
    for seq, n in enumerate(kv_lens):
        first = kv_lens[:seq].sum()
        ends = [first + int(n) * i // num_splits for i in range(num_splits + 1)]
        for part, (a, b) in enumerate(pairwise(ends)):
            if workspace is None or a < b or not n:
                outs[part], lses[part] = right._online_softmax(q[seq].reshape(shape[1:]), k[a:b], v[a:b], sm_scale)
        mean, total = right._merge(outs, lses)
        out[seq], lse[seq] = mean.reshape(q.shape[1:]), total.ravel()
    return out, lse
