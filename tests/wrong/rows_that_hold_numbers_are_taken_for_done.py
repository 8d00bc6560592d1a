"""Wrong: rows of out without a NaN are taken to be there from an attempt before, and are not computed again."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "rows_that_hold_numbers_are_taken_for_done"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "into": {"out"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, out=None, **options):
    result, lse = right.paged_decode(*arguments, **options)
    if out is None:
        return result, lse
    missing = np.isnan(out.astype(np.float32)).any((1, 2))
    out[missing] = result[missing]
    return out, lse
