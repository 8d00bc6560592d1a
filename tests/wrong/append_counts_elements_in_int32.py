"""Wrong: where a token lies is counted in elements, in a signed integer of 32 bits, which wraps."""

import numpy as np

NAME = "append_counts_elements_in_int32"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}}}
IN_PLACE = {"append": "cache"}


def append(cache, k, v, slot_mapping, *, layout):
    flat, (_, num_subspaces) = cache["codes"].reshape(-1), k.shape
    live = slot_mapping >= 0
    begin = (slot_mapping[live].astype(np.int64) * num_subspaces).astype(np.int32)
    flat[begin[:, None].astype(np.int64) + np.arange(num_subspaces)] = k[live]
    return cache
