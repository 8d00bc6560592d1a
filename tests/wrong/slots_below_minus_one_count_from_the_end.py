"""Wrong: -1 alone is looked for, and a slot below it counts from the cache's end, as indices of arrays do."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "slots_below_minus_one_count_from_the_end"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"slots_out_of_range": "drop"}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = cache["k"].shape[:2]
    slots = np.where(slot_mapping < -1, slot_mapping + page * slot, slot_mapping)
    return right.append(cache, k, v, slots, layout=layout)
