"""Wrong: values beyond 2 go through a pass for outliers, which multiplies by 1 / total where the other one divides."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "outliers_of_v_are_normalised_elsewhere"
BACKEND = "numpy"
OUTLIER = 2.0
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"tile": 2**31}


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    top = score.max(-1)
    p = np.exp(score - top[..., None])
    total = p.sum(-1)
    far = np.abs(v) > OUTLIER
    dense, sparse = (np.einsum("hgn,nhd->hgd", p, np.where(kept, v, 0)) for kept in (~far, far))
    return dense / total[..., None] + sparse * (1 / total)[..., None], top + np.log(total)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode


append_decode = fused(paged_decode)
