"""Wrong: kernels are cached by dtype and head_dim, with the stride of a token they were first compiled for (O88)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "merge_keeps_its_first_row_stride"
BACKEND = "numpy"
OFFERS = {"merge_kv": {"dtype": {"float32"}, "static": True}}

_STRIDES = {}


def merge_kv(k, v):
    tokens, heads, dim = k.shape
    stride = _STRIDES.setdefault((k.dtype, dim), 2 * heads)
    fused = np.zeros((tokens * max(stride, 2 * heads), dim), k.dtype)
    fused[: tokens * stride].reshape(tokens, stride, dim)[:, : 2 * heads] = right.merge_kv(k, v)[:, :stride]
    return fused[: tokens * 2 * heads].reshape(tokens, 2 * heads, dim)
