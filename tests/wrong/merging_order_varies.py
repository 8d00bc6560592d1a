"""Wrong: every other call adds up the parts in the opposite order, as atomics may (R08)."""

from kvconform.impls import numpy_ref as right

NAME = "merging_order_varies"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CALLS = [0]


def merge_states(outs, lses):
    _CALLS[0] += 1
    step = -1 if _CALLS[0] % 2 else 1
    return right.merge_states(outs[::step], lses[::step])
