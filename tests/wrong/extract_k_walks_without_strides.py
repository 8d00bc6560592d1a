"""Wrong: extract_k walks the tensor from its first element as if it were contiguous (O49, aiter#4531)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "extract_k_walks_without_strides"
BACKEND = "numpy"
OFFERS = {
    "extract_k": {"dtype": {"float32", "bfloat16"}, "strides": {"contiguous", "outer", "all"}},
    "extract_v": {"dtype": {"float32", "bfloat16"}, "strides": {"contiguous", "outer", "all"}},
}

extract_v = right.extract_v


def extract_k(kv):
    dense = np.empty(kv.shape, kv.dtype).strides
    return right.extract_k(np.lib.stride_tricks.as_strided(kv, strides=dense))
