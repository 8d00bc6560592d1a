"""Wrong: the kernel for heads of 128 dims and more was compiled without the soft cap."""

from kvconform.impls import numpy_ref as right

NAME = "kernel_of_128_dims_has_no_soft_cap"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "soft_cap": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, *given, soft_cap=None, **options):
    return right.paged_decode(q, *given, soft_cap=None if q.shape[-1] >= 128 else soft_cap, **options)
