"""Wrong: lse is the maximum of what is merged and what stands where it is written; beside NaN, the former."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "merged_lse_is_the_larger_of_it_and_what_is_given"
BACKEND = "numpy"
OFFERS = {"merge_states": right.OFFERS["merge_states"] | {"dtype": {"float32"}, "into": {"lse"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def merge_states(outs, lses, *, lse=None):
    out, merged = right.merge_states(outs, lses)
    if lse is None:
        return out, merged
    np.fmax(lse, merged, out=lse)
    return out, lse
