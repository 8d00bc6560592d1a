"""Wrong: keys are visited in the order of page numbers, so the numbers decide how sums round (R08)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "pages_in_order_of_their_numbers"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _sequence(view, place):
    return right._sequence(view, place)[np.argsort(place[0], kind="stable")]


paged_decode = reference_with(_sequence=_sequence).paged_decode
