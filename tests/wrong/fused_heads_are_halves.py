"""Wrong: merge_kv puts all heads of V behind all heads of K (O46)."""

import numpy as np

NAME = "fused_heads_are_halves"
BACKEND = "numpy"
OFFERS = {
    "merge_kv": {"dtype": {"float32", "bfloat16"}},
    "extract_k": {"dtype": {"float32", "bfloat16"}},
    "extract_v": {"dtype": {"float32", "bfloat16"}},
}


def merge_kv(k, v):
    return np.concatenate([k, v], axis=1)


def extract_k(kv):
    return kv[:, : kv.shape[1] // 2]


def extract_v(kv):
    return kv[:, kv.shape[1] // 2 :]
