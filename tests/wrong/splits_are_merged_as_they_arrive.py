"""Wrong: partial results are merged in the order in which they were done, every other time the opposite one (R08)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "splits_are_merged_as_they_arrive"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"bshd", "bhsd"}, "dtype": {"float32"}, "num_splits": range(3, 8)}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC

_CALLS = [0]


def _merge(outs, lses):
    step = -1 if _CALLS[0] % 2 else 1
    return right._merge(outs[::step], lses[::step])


def paged_decode(*arguments, **options):
    _CALLS[0] += 1
    return _wrong.paged_decode(*arguments, **options)


_wrong = reference_with(_merge=_merge)
