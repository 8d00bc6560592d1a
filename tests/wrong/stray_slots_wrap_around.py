"""Wrong: a slot past the cache's end is counted on from its beginning."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "stray_slots_wrap_around"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"slots_out_of_range": "drop"}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = cache["k"].shape[:2]
    return right.append(cache, k, v, np.where(slot_mapping < 0, -1, slot_mapping % (page * slot)), layout=layout)
