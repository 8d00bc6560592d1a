"""Wrong: what was summed stays as it is when the running maximum rises (O67i)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "accumulator_is_not_rescaled"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    top = np.full(q.shape[:2], -np.inf, np.float32)
    total, out = np.zeros_like(top), np.zeros(q.shape, np.float32)
    for start in range(0, len(k), right.TILE):
        tile = slice(start, start + right.TILE)
        score = np.einsum("hgd,nhd->hgn", q, k[tile]) * np.float32(sm_scale)
        top = np.maximum(top, score.max(-1))
        p = np.exp(score - top[..., None])
        total = total + p.sum(-1)
        out = out + np.einsum("hgn,nhd->hgd", p, v[tile])
    return out / np.where(total > 0, total, 1)[..., None], top + np.log(total)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
