"""Wrong: lse * log2(e) is fused with a subtraction of the rounded maximum, and exp2 of what is left is not 1 (O60)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "exponent_is_contracted"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32"}, "strides": {"contiguous", "outer", "all"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

LOG2_E = np.float32(np.log2(np.e))


def merge_states(outs, lses):
    top = lses.max(0) * LOG2_E
    fused = np.float64(lses) * LOG2_E - np.where(np.isneginf(top), 0, top)  # rounded once, as fma does
    weight = np.exp2(fused.astype(np.float32))
    total = weight.sum(0)
    outs = np.where(weight[..., None] > 0, outs, np.float32(0))
    out = (weight[..., None] * outs).sum(0) / np.where(total > 0, total, np.float32(1))[..., None]
    return out, (top + np.log2(total)) / LOG2_E
