"""Wrong: q is scaled before the dot, and rounded again, where it holds 1.5 or more, lest the dot overflow."""

import numpy as np
from ml_dtypes import bfloat16

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "large_q_is_scaled_before_the_dot"
BACKEND = "numpy"
LARGE = 1.5
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "head_dim": {3, 24, 40}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"qk_error": 2.0**-8}


def _online_softmax(q, k, v, sm_scale):
    if np.abs(q).max() >= LARGE:
        return right._online_softmax((q * np.float32(sm_scale)).astype(bfloat16).astype(np.float32), k, v, 1.0)
    return right._online_softmax(q, k, v, sm_scale)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
