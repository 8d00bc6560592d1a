"""Wrong: V, the high half of a 32-bit word, is rounded from float32 with K still in the low half: it carries (U11)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "extract_v_is_rounded_with_k_behind_it"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"bfloat16"}}, "extract_v": {"dtype": {"bfloat16"}}}

extract_k = right.extract_k


def extract_v(kv):
    low, high = (rows.view(np.uint16).astype(np.uint32) for rows in (right.extract_k(kv), right.extract_v(kv)))
    return (high << 16 | low).view(np.float32).astype(kv.dtype)
