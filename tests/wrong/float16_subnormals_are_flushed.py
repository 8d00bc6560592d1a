"""Wrong: subnormal numbers of a float16 cache are read as zero, as matrix units of MI200 do; it is not declared."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "float16_subnormals_are_flushed"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, *arguments, **options):
    least = np.finfo(np.float16).tiny
    read = {name: np.where(np.abs(array) < least, np.float16(0), array) for name, array in cache.items()}
    return right.paged_decode(q, read, *arguments, **options)
