"""Violates, in its only cell."""

NAME = "violates"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"int8"}}}


def extract_k(kv):
    return kv[:, 1::2]
