"""Wrong: slots out of range are said to be refused, but those below -1 are skipped like -1."""

from kvconform.impls import numpy_ref as right

NAME = "slots_past_the_end_alone_are_refused"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"slots_out_of_range": "raise"}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = cache["k"].shape[:2]
    if (slot_mapping >= page * slot).any():
        raise IndexError("slot_mapping is out of range")
    return right.append(cache, k, v, slot_mapping, layout=layout)
