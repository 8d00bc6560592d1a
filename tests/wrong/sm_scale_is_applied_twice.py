"""Wrong: q is scaled, and the scores again (O63c)."""

from kvconform.impls import numpy_ref as right

NAME = "sm_scale_is_applied_twice"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}, right.ARITHMETIC


def paged_decode(*arguments, layout, sm_scale, num_splits):
    return right.paged_decode(*arguments, layout=layout, sm_scale=sm_scale * sm_scale, num_splits=num_splits)
