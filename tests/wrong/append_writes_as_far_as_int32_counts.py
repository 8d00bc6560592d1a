"""Wrong: elements are counted in 32 bits, and a token whose count came out negative is taken for a skipped one."""

import numpy as np

NAME = "append_writes_as_far_as_int32_counts"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}}}
IN_PLACE = {"append": "cache"}


def append(cache, k, v, slot_mapping, *, layout):
    rows, (_, num_subspaces) = cache["codes"].reshape(-1, k.shape[1]), k.shape
    live = (slot_mapping.astype(np.int64) * num_subspaces).astype(np.int32) >= 0
    rows[slot_mapping[live]] = k[live]
    return cache
