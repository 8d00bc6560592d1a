"""Wrong: every subspace is decoded with the centroids of the first one."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_centroids_are_those_of_subspace_0"
BACKEND = "numpy"
OFFERS = {"pq_decode": {"dtype": {"uint8"}, "q_dtype": {"float32", "float16", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_decode(codes, codebooks, *, dtype):
    return pq.decode(codes, np.repeat(codebooks[:1], len(codebooks), 0), dtype)
