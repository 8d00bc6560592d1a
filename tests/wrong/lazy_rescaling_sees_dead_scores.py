"""Wrong: whether the accumulator is rescaled is decided on the scores of a whole page, before they are masked (O34)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "lazy_rescaling_sees_dead_scores"
BACKEND = "numpy"
LAG = 8 * np.log(2)  # nats
OFFERS = both({"layout": {"nhd", "hnd", "beside_nhd", "kv_first_nhd", "page_first_hnd"}, "dtype": {"float32"}})
CONVENTIONS = {"dead": {"zero", "finite"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 1, "max_lag": LAG}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    size, heads = (views := right._views(cache, layout))[0].shape[1:3]
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    for seq, n in enumerate(kv_lens):
        pages = block_table[seq, : -(-n // size)]
        at = np.repeat(pages, size), np.tile(np.arange(size), len(pages))
        k, v = (right.sequence(view, at) for view in views)
        v[n:] = 0
        grouped = q[seq].reshape(heads, -1, q.shape[-1])
        top, total, mean = np.full(grouped.shape[:2], -np.inf, np.float32), np.float32(0), np.zeros_like(grouped)
        for start in range(0, len(k), size):
            score = np.einsum("hgd,nhd->hgn", grouped, k[start : start + size]) * np.float32(sm_scale)
            rises = score.max(-1) > top + LAG
            score[..., n - start :] = -np.inf
            new_top = np.where(rises, np.maximum(top, score.max(-1)), top)
            keep, p = np.exp(top - new_top), np.exp(score - new_top[..., None])
            total = total * keep + p.sum(-1)
            mean = mean * keep[..., None] + np.einsum("hgn,nhd->hgd", p, v[start : start + size])
            top = new_top
        if n:
            out[seq], lse[seq] = (mean / total[..., None]).reshape(out[seq].shape), (top + np.log(total)).ravel()
    return out, lse


append_decode = fused(paged_decode)
