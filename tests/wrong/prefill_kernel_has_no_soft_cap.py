"""Wrong: sequences of more than eight query tokens go to the kernel for prefill, which knows no soft cap."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "prefill_kernel_has_no_soft_cap"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}, "soft_cap": {"min": 0}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, soft_cap=None, q_lens=None, **options):
    if q_lens is not None and q_lens.max(initial=0) > 8:
        soft_cap = None
    return right.paged_decode(*arguments, soft_cap=soft_cap, q_lens=q_lens, **options)


append_decode = fused(paged_decode)
