"""Wrong: slots out of range are said to be refused, but only that of the newest token is looked at."""

from kvconform.impls import numpy_ref as right

NAME = "last_slot_alone_is_checked"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"slots_out_of_range": "raise"}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = cache["k"].shape[:2]
    if len(slot_mapping) and not -1 <= slot_mapping[-1] < page * slot:
        raise IndexError("slot_mapping is out of range")
    return right.append(cache, k, v, slot_mapping, layout=layout)
