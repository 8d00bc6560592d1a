"""Wrong: the largest slot alone is compared with 0, so that one live token hides those of slot -1."""

from kvconform.impls import numpy_ref as right

NAME = "slots_are_refused_only_if_none_is_live"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"skipped_slots": "raise"}


def append(cache, k, v, slot_mapping, *, layout):
    if slot_mapping.max(initial=-2) == -1:
        raise IndexError("slot_mapping is negative")
    return right.append(cache, k, v, slot_mapping, layout=layout)
