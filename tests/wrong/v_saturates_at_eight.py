"""Wrong: V goes through a fixed-point format of four bits before the point, and is 8 where it is more."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "v_saturates_at_eight"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    return right._online_softmax(q, k, v.clip(-8, 8), sm_scale)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
