"""Wrong: scores are not scaled (O63c)."""

from kvconform.impls import numpy_ref as right

NAME = "sm_scale_is_missing"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, layout, sm_scale, num_splits):
    return right.paged_decode(*arguments, layout=layout, sm_scale=1.0, num_splits=num_splits)
