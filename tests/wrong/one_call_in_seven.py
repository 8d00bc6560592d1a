"""Wrong: every seventh call leaves one dim of out unwritten, whatever its input (R08, vllm#50603)."""

from kvconform.impls import numpy_ref as right

NAME = "one_call_in_seven"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CALLS = [0]


def paged_decode(*arguments, **options):
    _CALLS[0] += 1
    out, lse = right.paged_decode(*arguments, **options)
    out[..., -1] *= 0 if _CALLS[0] % 7 == 0 else 1
    return out, lse
