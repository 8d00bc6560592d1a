"""Wrong: dim i of subspace m lies at i * num_subspaces + m."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_subspaces_are_interleaved"
BACKEND = "numpy"
OFFERS = {"pq_decode": {"dtype": {"uint8"}, "q_dtype": {"float32", "float16", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_decode(codes, codebooks, *, dtype):
    x = pq.decode(codes, codebooks, dtype).reshape(*codes.shape, -1)
    return np.ascontiguousarray(x.swapaxes(2, 3)).reshape(*codes.shape[:2], -1)
