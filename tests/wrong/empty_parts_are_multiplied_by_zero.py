"""Wrong: outs of empty parts count zero times, and 0 * NaN is NaN (O13, vllm#47188)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "empty_parts_are_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"renormalises": False}


def _merge(outs, lses):
    weight = np.exp(lses - right._merge(outs, lses)[1])
    weight = np.where(np.isneginf(lses), np.float32(0), weight)
    return (weight[..., None] * outs).sum(0), right._merge(outs, lses)[1]


merge_states = reference_with(_merge=_merge).merge_states
