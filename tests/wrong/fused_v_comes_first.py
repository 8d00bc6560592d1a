"""Wrong: merge_kv writes V0 K0 V1 K1 ..., and extract_* read the right rows (O48b)."""

from kvconform.impls import numpy_ref as right

NAME = "fused_v_comes_first"
BACKEND = "numpy"
OFFERS = {
    "merge_kv": {"dtype": {"float32", "bfloat16"}},
    "extract_k": {"dtype": {"float32", "bfloat16"}},
    "extract_v": {"dtype": {"float32", "bfloat16"}},
}

extract_k, extract_v = right.extract_k, right.extract_v


def merge_kv(k, v):
    return right.merge_kv(v, k)
