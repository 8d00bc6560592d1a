"""Returns K with its heads side by side."""

NAME = "returns_another_shape"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"int8"}}}


def extract_k(kv):
    return kv[:, 0::2].reshape(len(kv), -1)
