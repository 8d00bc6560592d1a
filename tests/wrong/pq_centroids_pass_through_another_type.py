"""Wrong: centroids are widened and narrowed again, which quiets a signalling NaN."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_centroids_pass_through_another_type"
BACKEND = "numpy"
OFFERS = {"pq_decode": {"dtype": {"uint8"}, "q_dtype": {"float32", "float16", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_decode(codes, codebooks, *, dtype):
    x = pq.decode(codes, codebooks, dtype)
    return x.astype(np.float64 if x.dtype == np.float32 else np.float32).astype(x.dtype)
