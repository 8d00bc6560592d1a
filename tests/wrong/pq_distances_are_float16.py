"""Wrong: distances are kept in float16."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "pq_distances_are_float16"
BACKEND = "numpy"
OFFERS = {"pq_encode": {"dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_encode(x, codebooks, *, dtype):
    cut = x.reshape(*x.shape[:2], len(codebooks), 1, codebooks.shape[2])
    with np.errstate(over="ignore"):
        return np.square(cut - codebooks).sum(-1).astype(np.float16).argmin(-1).astype(np.uint8)
