"""Wrong: vectors and centroids are narrowed to float16 before distances are taken."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_operands_are_float16"
BACKEND = "numpy"
OFFERS = {"pq_encode": {"dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_encode(x, codebooks, *, dtype):
    return pq.encode(*(a.astype(np.float16).astype(np.float32) for a in (x, codebooks)), dtype)
