"""Wrong: of two codes in a byte the first one is the high half."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_high_nibble_comes_first"
BACKEND = "numpy"
OFFERS = {"pq_encode": {"dtype": {"uint4"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_encode(x, codebooks, *, dtype):
    codes = pq.encode(x, codebooks, dtype)
    return codes >> 4 | codes << 4
