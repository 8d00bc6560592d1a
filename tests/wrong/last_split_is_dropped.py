"""Wrong: the last split never reaches the result (O66b)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "last_split_is_dropped"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _merge(outs, lses):
    return right._merge(outs[:-1], lses[:-1])


paged_decode = reference_with(_merge=_merge).paged_decode
