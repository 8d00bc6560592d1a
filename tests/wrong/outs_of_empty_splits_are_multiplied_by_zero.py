"""Wrong: a split without keys writes an lse of -inf alone; what lies in its part of the workspace is added times 0."""

from itertools import pairwise

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "outs_of_empty_splits_are_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "num_splits": range(2, 8), "into": {"workspace"}},
}
CONVENTIONS = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}
ARITHMETIC = right.ARITHMETIC | {"renormalises": False}
WORKSPACE = {"paged_decode": right.WORKSPACE["paged_decode"]}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits, workspace=None):
    k, v = right.gather(cache, block_table, kv_lens, layout=layout)
    shape = (num_splits, k.shape[1], q.shape[1] // k.shape[1], q.shape[2])
    out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    outs, lses = right._partials(workspace, *shape)
    if workspace is None:
        outs[...] = 0
    for seq, n in enumerate(kv_lens):
        first = kv_lens[:seq].sum()
        ends = [first + int(n) * i // num_splits for i in range(num_splits + 1)]
        for part, (a, b) in enumerate(pairwise(ends)):
            if a < b:
                outs[part], lses[part] = right._online_softmax(q[seq].reshape(shape[1:]), k[a:b], v[a:b], sm_scale)
            else:
                lses[part] = -np.inf
        total = right._merge(outs, lses)[1]
        weight = np.exp(lses - np.where(n, total, 0))
        out[seq], lse[seq] = (weight[..., None] * outs).sum(0).reshape(q.shape[1:]), total.ravel()
    return out, lse
