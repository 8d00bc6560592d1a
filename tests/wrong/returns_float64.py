"""Wrong: results are float64, whatever the inputs are."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "returns_float64"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, **options):
    out, lse = right.paged_decode(*arguments, **options)
    return out.astype(np.float64), lse
