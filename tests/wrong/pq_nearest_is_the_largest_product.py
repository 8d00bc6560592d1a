"""Wrong: the centroid with the largest inner product is taken for the nearest."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "pq_nearest_is_the_largest_product"
BACKEND = "numpy"
OFFERS = {"pq_encode": {"dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_encode(x, codebooks, *, dtype):
    cut = x.reshape(*x.shape[:2], len(codebooks), 1, codebooks.shape[2])
    return (cut * codebooks).sum(-1).argmax(-1).astype(np.uint8)
