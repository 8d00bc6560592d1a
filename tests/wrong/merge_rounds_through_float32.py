"""Wrong: K and V pass through float32 arithmetic on their way into the fused tensor (U11)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "merge_rounds_through_float32"
BACKEND = "numpy"
OFFERS = {"merge_kv": {"dtype": {"float32", "bfloat16"}}}


def merge_kv(k, v):
    fused = right.merge_kv(k.astype(np.float32), v.astype(np.float32)) + np.float32(0)
    return fused.astype(k.dtype)
