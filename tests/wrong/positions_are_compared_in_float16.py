"""Wrong: the mask compares positions and lengths as float16, where 2049 is 2048 (O51a)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "positions_are_compared_in_float16"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    live = np.arange(len(k)).astype(np.float16) < np.float16(len(k))
    return right._online_softmax(q, k[live], v[live], sm_scale)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
append_decode = fused(paged_decode)
