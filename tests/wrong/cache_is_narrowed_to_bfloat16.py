"""Wrong: K and V pass through bfloat16 before both products, as in a TPU kernel that casts any cache it is given."""

import ml_dtypes

from kvconform.impls import numpy_ref as right

NAME = "cache_is_narrowed_to_bfloat16"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "float16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, *arguments, **options):
    narrow = {name: field.astype(ml_dtypes.bfloat16).astype(field.dtype) for name, field in cache.items()}
    return right.paged_decode(q, narrow, *arguments, **options)
