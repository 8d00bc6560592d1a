"""Wrong: the order of rows is computed once for a head_dim, whatever the number of heads, and clamped (O88, O54)."""

import numpy as np

NAME = "interleaving_of_the_first_call"
BACKEND = "numpy"
OFFERS = {"merge_kv": {"dtype": {"float32"}, "static": True}}

_ORDERS = {}


def merge_kv(k, v):
    heads, dim = k.shape[1:]
    order = _ORDERS.setdefault(dim, np.arange(2 * heads).reshape(2, heads).T.ravel())
    return np.concatenate([k, v], axis=1).take(np.resize(order, 2 * heads), axis=1, mode="clip")
