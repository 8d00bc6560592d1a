"""Wrong: a sink beyond 11, whose exponential leaves float16, is taken for 11."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "sinks_are_clipped_at_eleven"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "sinks": {"none", "drawn", "dominant"}}
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, sinks=None, **options):
    clipped = None if sinks is None else np.minimum(sinks, np.float32(11)).astype(sinks.dtype)
    return right.paged_decode(*arguments, sinks=clipped, **options)
