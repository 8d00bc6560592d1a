"""Wrong: slots pass through float32, which holds integers of 24 bits."""

import numpy as np

NAME = "append_slots_pass_through_float32"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}}}
IN_PLACE = {"append": "cache"}


def append(cache, k, v, slot_mapping, *, layout):
    rows = cache["codes"].reshape(-1, k.shape[1])
    slots = slot_mapping.astype(np.float32).astype(np.int64)
    live = (slots >= 0) & (slots < len(rows))
    rows[slots[live]] = k[live]
    return cache
