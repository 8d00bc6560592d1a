"""Wrong: slots of 32 bits are checked, those of 64 bits take a way without the check."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "wide_slots_are_not_checked"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"skipped_slots": "raise"}


def append(cache, k, v, slot_mapping, *, layout):
    if slot_mapping.dtype == np.int32 and (slot_mapping == -1).any():
        raise IndexError("slot_mapping is negative")
    return right.append(cache, k, v, slot_mapping, layout=layout)
