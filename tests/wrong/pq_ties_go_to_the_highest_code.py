"""Wrong: of several nearest centroids the last one is taken, as `<=` in the loop does."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_ties_go_to_the_highest_code"
BACKEND = "numpy"
OFFERS = {"pq_encode": {"dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_encode(x, codebooks, *, dtype):
    return len(codebooks[0]) - 1 - pq.encode(x, np.ascontiguousarray(codebooks[:, ::-1]), dtype)
