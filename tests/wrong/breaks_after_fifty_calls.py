"""Wrong: what one call leaves behind adds up: from the fiftieth call on one dim of out is unwritten."""

from kvconform.impls import numpy_ref as right

NAME = "breaks_after_fifty_calls"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CALLS = [0]


def paged_decode(*arguments, **options):
    _CALLS[0] += 1
    out, lse = right.paged_decode(*arguments, **options)
    out[..., -1] *= 0 if _CALLS[0] > 50 else 1
    return out, lse
