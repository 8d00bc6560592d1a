"""Wrong: outputs of splits are added without weights (O71c)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "partials_are_added"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _merge(outs, lses):
    return outs.sum(0), right._merge(outs, lses)[1]


paged_decode = reference_with(_merge=_merge).paged_decode
