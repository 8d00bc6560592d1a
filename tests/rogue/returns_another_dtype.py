"""Returns K as int16."""

NAME = "returns_another_dtype"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"int8"}}}


def extract_k(kv):
    return kv[:, 0::2].astype("int16")
