"""Wrong: the mask compares positions as int16, in which those past 32767 are negative, with lengths cut to as many."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "positions_are_16_bits"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    live = np.arange(len(k)).astype(np.int16) >= 0
    return right._online_softmax(q, k[live], v[live], sm_scale)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
append_decode = fused(paged_decode)
