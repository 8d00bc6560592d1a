"""Wrong: K, the low half of a 32-bit word, is shifted up, taken for float32 and rounded, which quiets NaN (U11)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "extract_k_quiets_signalling_nan"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"bfloat16"}}, "extract_v": {"dtype": {"bfloat16"}}}

extract_v = right.extract_v


def extract_k(kv):
    words = right.extract_k(kv).view(np.uint16).astype(np.uint32) << 16
    return words.view(np.float32).astype(kv.dtype)
