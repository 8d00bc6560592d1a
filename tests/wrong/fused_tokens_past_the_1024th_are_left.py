"""Wrong: one block of 1024 threads, a token each; the rest stays as it was allocated."""

from kvconform.impls import numpy_ref as right

NAME = "fused_tokens_past_the_1024th_are_left"
BACKEND = "numpy"
OFFERS = {"merge_kv": {"layout": {"fused"}, "dtype": {"float32", "int8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def merge_kv(k, v):
    kv = right.merge_kv(k, v)
    kv[1024:] = 0
    return kv
