"""Wrong: keys are visited from the last one on in split_x alone, and all layouts are declared the same bit for bit."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "split_x_is_summed_from_the_last_key"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"split_x", "nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": {"batch", "layouts"}}, right.ARITHMETIC


def paged_decode(*arguments, layout, **options):
    return (_wrong if layout == "split_x" else right).paged_decode(*arguments, layout=layout, **options)


_wrong = reference_with(_online_softmax=lambda q, k, v, sm_scale: right._online_softmax(q, k[::-1], v[::-1], sm_scale))
