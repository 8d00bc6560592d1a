"""Wrong: the kernel for more than two parts takes lse for a logarithm to base 2, that for two does not (O59)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "many_parts_are_weighted_in_base_2"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def merge_states(outs, lses):
    out, lse = right.merge_states(outs, lses)
    if len(outs) > 2:
        out, _ = right.merge_states(outs, lses * np.float32(np.log(2)))
    return out, lse
