"""Wrong: scores are exponentiated as they are, and overflow (O71b)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "softmax_without_maximum"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    p = np.exp(np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale))
    total = p.sum(-1)
    return np.einsum("hgn,nhd->hgd", p, v) / np.where(total > 0, total, 1)[..., None], np.log(total)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
