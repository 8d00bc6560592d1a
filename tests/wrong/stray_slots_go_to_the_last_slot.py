"""Wrong: a slot past the cache's end is clamped to the last one, as XLA clamps the index of an update."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "stray_slots_go_to_the_last_slot"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"slots_out_of_range": "drop"}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = cache["k"].shape[:2]
    return right.append(cache, k, v, np.minimum(slot_mapping, page * slot - 1), layout=layout)
