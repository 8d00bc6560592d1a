"""Wrong: without sm_scale nothing is scaled, where head_dim ** -0.5 is declared."""

from kvconform.impls import numpy_ref as right

NAME = "scale_of_none_is_one"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, sm_scale=None, **options):
    return right.paged_decode(*arguments, sm_scale=1.0 if sm_scale is None else sm_scale, **options)
