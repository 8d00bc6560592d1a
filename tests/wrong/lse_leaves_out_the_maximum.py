"""Wrong: lse is the logarithm of the sum alone (O59b)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "lse_leaves_out_the_maximum"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    out, lse = right._online_softmax(q, k, v, sm_scale)
    top = np.einsum("hgd,nhd->hgn", q, k).max(-1, initial=-np.inf) * np.float32(sm_scale)
    return out, np.where(np.isneginf(lse), lse, lse - top)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
