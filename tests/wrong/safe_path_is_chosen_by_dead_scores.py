"""Wrong: the maximum is left out where no score of a whole page is large, and that is asked before masking (O34)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "safe_path_is_chosen_by_dead_scores"
BACKEND = "numpy"
CALM = 16.0  # nats
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS = {"dead": {"zero", "finite"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 1, "max_lag": CALM}


def _scores(q, k, sm_scale):
    return np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)


def _softmax_as_it_is(q, k, v, sm_scale):
    p = np.exp(_scores(q, k, sm_scale))
    return np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1, keepdims=True), np.log(p.sum(-1))


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    views = right._views(cache, layout)
    size, heads = views[0].shape[1:3]
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    for seq, n in enumerate(kv_lens):
        pages = block_table[seq, : -(-n // size)]
        at = np.repeat(pages, size), np.tile(np.arange(size), len(pages))
        k, v = (right.sequence(view, at) for view in views)
        grouped = q[seq].reshape(heads, -1, q.shape[-1])
        calm = n and np.abs(_scores(grouped, k, sm_scale)).max() < CALM
        mean, total = (_softmax_as_it_is if calm else right._online_softmax)(grouped, k[:n], v[:n], sm_scale)
        out[seq], lse[seq] = mean.reshape(out[seq].shape), total.ravel()
    return out, lse


append_decode = fused(paged_decode)
