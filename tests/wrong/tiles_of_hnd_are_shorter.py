"""Wrong: tiles are half as long in hnd, and the results of all layouts are declared to be the same bit for bit."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "tiles_of_hnd_are_shorter"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd", "bshd", "bhsd"}, "dtype": {"float32"}}}
CONVENTIONS = right.CONVENTIONS | {"invariances": {"layouts"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 8}


def paged_decode(*arguments, layout, **options):
    return (_wrong if layout == "hnd" else right).paged_decode(*arguments, layout=layout, **options)


_wrong = reference_with()
_wrong.TILE = 8
