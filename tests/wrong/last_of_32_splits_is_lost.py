"""Wrong: a warp merges 32 partial results a step, and of a whole number of steps loses the last."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "last_of_32_splits_is_lost"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "num_splits": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _merge(outs, lses):
    kept = len(outs) - (len(outs) % 32 == 0)
    return right._merge(outs[:kept], lses[:kept])


paged_decode = reference_with(_merge=_merge).paged_decode
