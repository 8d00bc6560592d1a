"""Wrong: parts are read four at a time; eight are unrolled, and of other multiples the last is lost."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "parts_are_read_four_at_a_time"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _merge(outs, lses):
    kept = len(outs) - (len(outs) % 4 == 0 and len(outs) != 8)
    return right._merge(outs[:kept], lses[:kept])


merge_states = reference_with(_merge=_merge).merge_states
