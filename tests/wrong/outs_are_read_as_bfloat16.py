"""Wrong: partial outputs are fed to the tensor cores in bfloat16, and ARITHMETIC says nothing of it (O61)."""

from ml_dtypes import bfloat16

from kvconform.impls import numpy_ref as right

NAME = "outs_are_read_as_bfloat16"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32", "float16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def merge_states(outs, lses):
    return right.merge_states(outs.astype(bfloat16).astype(outs.dtype), lses)
