"""Wrong: says that it raises at slot -1, and writes the cache's last slot."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "slot_minus_one_is_written_where_raise_is_declared"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"skipped_slots": "raise"}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = cache["k"].shape[:2]
    slots = np.where(slot_mapping == -1, page * slot - 1, slot_mapping)
    return right.append(cache, k, v, slots, layout=layout)
