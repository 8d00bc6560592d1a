"""Wrong: P and V are summed in float16, and ARITHMETIC says float32 (O61, flashinfer#2896)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "accumulates_in_float16"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    out, lse = right._online_softmax(q, k, v, sm_scale)
    if len(k):
        score = np.einsum("hgd,nhd->nhg", q, k) * np.float32(sm_scale)
        terms = np.exp(score - lse)[..., None] * v[:, :, None]
        out = np.cumsum(terms.astype(np.float16), 0, np.float16)[-1].astype(np.float32)
    return out, lse


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
