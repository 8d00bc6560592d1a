"""Wrong: of heads of exactly 64 dims half a warp reads the first 32 alone."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "heads_of_64_dims_are_read_by_half_a_warp"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, *arguments, **options):
    read = q * (np.arange(q.shape[2]) < 32) if q.shape[2] == 64 else q
    return right.paged_decode(read.astype(q.dtype), *arguments, **options)
