"""Wrong: lse is a logarithm to base 2 (O59, tokenspeed#571)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "lse_is_base_2"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, **options):
    out, lse = right.paged_decode(*arguments, **options)
    return out, lse / np.float32(np.log(2))
