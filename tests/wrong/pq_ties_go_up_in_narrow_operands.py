"""Wrong: of nearest centroids the last one is taken, and K is declared to be held in tfloat32."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_ties_go_up_in_narrow_operands"
BACKEND = "numpy"
OFFERS = {"pq_encode": {"dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {"k_format": "tfloat32"}


def pq_encode(x, codebooks, *, dtype):
    return len(codebooks[0]) - 1 - pq.encode(x, np.ascontiguousarray(codebooks[:, ::-1]), dtype)
