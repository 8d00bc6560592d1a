"""Wrong: one wavefront merges, a part each."""

from kvconform.impls import numpy_ref as right

NAME = "parts_past_the_64th_are_not_merged"
BACKEND = "numpy"
OFFERS = {"merge_states": {"layout": {"parts_first"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def merge_states(outs, lses):
    return right.merge_states(outs[:64], lses[:64])
