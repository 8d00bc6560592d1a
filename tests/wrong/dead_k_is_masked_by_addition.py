"""Wrong: a large negative number is added to scores of dead slots, whose K may be larger still (O28)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "dead_k_is_masked_by_addition"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero", "finite"}, "table_padding": {"valid"}}, right.ARITHMETIC | {"tile": 1}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    views = right._views(cache, layout)
    size, heads = views[0].shape[1:3]
    out, lse = np.zeros(q.shape, np.float32), np.full(q.shape[:2], -np.inf, np.float32)
    for seq, n in enumerate(kv_lens):
        pages = block_table[seq, : -(-n // size)]
        at = np.repeat(pages, size), np.tile(np.arange(size), len(pages))
        k, v = (right.sequence(view, at).astype(np.float32) for view in views)
        score = np.einsum("hgd,nhd->hgn", q[seq].astype(np.float32).reshape(heads, -1, q.shape[-1]), k)
        score *= np.float32(sm_scale)
        score[..., n:] -= 10000
        v[n:] = 0
        if n:
            top = score.max(-1, keepdims=True)
            p = np.exp(score - top)
            mean = np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1, keepdims=True)
            out[seq], lse[seq] = mean.reshape(out[seq].shape), (top[..., 0] + np.log(p.sum(-1))).ravel()
    return out.astype(q.dtype), lse
