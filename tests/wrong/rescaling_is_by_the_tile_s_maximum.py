"""Wrong: the accumulator is rescaled from the last tile's own maximum, not from the running one (O67t)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "rescaling_is_by_the_tile_s_maximum"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    if len(k) <= right.TILE:
        return right._online_softmax(q, k, v, sm_scale)
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    top = score[..., : right.TILE].max(-1)
    total, out = np.float32(0), np.float32(0)
    for start in range(0, len(k), right.TILE):
        tile = slice(start, start + right.TILE)
        highest = score[..., tile].max(-1)
        keep, p = np.exp(np.minimum(top - highest, 0)), np.exp(score[..., tile] - highest[..., None])
        total = total * keep + p.sum(-1)
        out, top = out * keep[..., None] + np.einsum("hgn,nhd->hgd", p, v[tile]), highest
    return out / total[..., None], top + np.log(total)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
