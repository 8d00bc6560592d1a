"""Wrong: sinks are staged for 64 heads, and the head is taken modulo that."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "sinks_of_the_first_64_heads_are_staged"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "sinks": {"none", "drawn"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*given, sinks=None, **options):
    staged = None if sinks is None else sinks[np.arange(len(sinks)) % 64]
    return right.paged_decode(*given, sinks=staged, **options)
