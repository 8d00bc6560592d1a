"""Wrong: the quotient is a product with a reciprocal from Newton steps, and that of 1 is a little less (U22)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "reciprocal_is_approximate"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _reciprocal(x):
    y = (np.uint32(0x7EF311C7) - x.view(np.uint32)).view(np.float32)
    for _ in range(3):
        y = y * (np.float32(2) - x * y)
    return y


def merge_states(outs, lses):
    top = lses.max(0)
    weight = np.exp(lses - np.where(np.isneginf(top), np.float32(0), top))
    total = weight.sum(0)
    outs = np.where(weight[..., None] > 0, outs, np.float32(0))
    out = (weight[..., None] * outs).sum(0) * _reciprocal(np.maximum(total, 1))[..., None]
    return out, top + np.log(total)
