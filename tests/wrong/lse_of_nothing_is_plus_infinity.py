"""Wrong: a sequence without keys has lse +inf (O58, flash-attention#978)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "lse_of_nothing_is_plus_infinity"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, **options):
    out, lse = right.paged_decode(*arguments, **options)
    return out, np.where(np.isneginf(lse), np.float32(np.inf), lse)
