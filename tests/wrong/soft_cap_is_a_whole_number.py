"""Wrong: the soft cap is passed to the kernel as an int."""

from kvconform.impls import numpy_ref as right

NAME = "soft_cap_is_a_whole_number"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "soft_cap": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*given, soft_cap=None, **options):
    return right.paged_decode(*given, soft_cap=None if soft_cap is None else float(int(soft_cap)), **options)
