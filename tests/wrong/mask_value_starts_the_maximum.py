"""Wrong: the running maximum starts from -50000, which scores may lie below (O57, flashinfer#4267)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "mask_value_starts_the_maximum"
BACKEND = "numpy"
MASK_VALUE = np.float32(-5e4)
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"tile": 2**31}


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    top = np.maximum(MASK_VALUE, score.max(-1))
    p = np.exp(score - top[..., None])
    total = p.sum(-1)
    safe = np.where(total > 0, total, np.float32(1))
    return np.einsum("hgn,nhd->hgd", p, v) / safe[..., None], top + np.log(safe)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
