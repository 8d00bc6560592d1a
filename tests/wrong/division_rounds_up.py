"""Wrong: the last division rounds toward plus infinity, a mode that somebody has left behind."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "division_rounds_up"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"tile": 2**31, "pv_truncates": True}


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    top = score.max(-1)
    p = np.exp(score - top[..., None])
    total = p.sum(-1)
    exact = np.einsum("hgn,nhd->hgd", p, v).astype(np.float64) / total[..., None]
    near = exact.astype(np.float32)
    return np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near), top + np.log(total)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode


append_decode = fused(paged_decode)
