"""Wrong: append keeps the number of a page in a signed integer of 16 bits."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "append_keeps_pages_in_int16"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = np.divmod(slot_mapping, cache["k"].shape[1])
    slots = page.astype(np.int16).astype(np.int64) * cache["k"].shape[1] + slot
    return right.append(cache, k, v, np.where(slot_mapping < 0, -1, slots), layout=layout)
