"""Reads address 0 in one cell of three."""

import ctypes

NAME = "crashes"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"float32", "float16", "int8"}}}


def extract_k(kv):
    if kv.dtype == "float16":
        ctypes.string_at(0)
    return kv[:, 0::2]
