"""Wrong: scaled q has 24 bits after the point and no exponent, though ARITHMETIC says float16, of as fine a quantum."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "q_is_held_in_fixed_point"
BACKEND = "numpy"
QUANTUM = 2.0**-24
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd", "bshd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"q_format": "float16", "qk_error": 2.0**-23}


def _online_softmax(q, k, v, sm_scale):
    held = np.rint(q.astype(np.float64) * sm_scale / QUANTUM) * QUANTUM
    return right._online_softmax(held.astype(np.float32), k, v, 1.0)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
