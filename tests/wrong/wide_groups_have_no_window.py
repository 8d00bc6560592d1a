"""Wrong: groups of eight heads and more go to the tensor cores, whose kernel knows no window."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "wide_groups_have_no_window"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "window": {"min": 0}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, *tables, window=None, **options):
    wide = q.shape[1] // cache["k"].shape[2] >= 8
    return right.paged_decode(q, cache, *tables, window=None if wide else window, **options)


append_decode = fused(paged_decode)
