"""Wrong: each split adds its weighted part to the memory that out is written into, which nothing has cleared."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "splits_are_added_to_what_is_given"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "num_splits": range(1, 8), "into": {"out"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, out=None, **options):
    result, lse = right.paged_decode(*arguments, **options)
    if out is None:
        return result, lse
    np.add(out, result, out=out)
    return out, lse
