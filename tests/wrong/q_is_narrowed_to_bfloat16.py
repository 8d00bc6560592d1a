"""Wrong: q, not K or V, is cast to bfloat16 whatever it is, as in a kernel first written for that type."""

import ml_dtypes

from kvconform.impls import numpy_ref as right

NAME = "q_is_narrowed_to_bfloat16"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "float16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, *arguments, **options):
    return right.paged_decode(q.astype(ml_dtypes.bfloat16).astype(q.dtype), *arguments, **options)
