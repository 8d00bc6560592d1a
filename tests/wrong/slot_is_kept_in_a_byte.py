"""Wrong: a slot of a page is an uint8, and page_size is not checked."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "slot_is_kept_in_a_byte"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "int8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append(cache, k, v, slot_mapping, *, layout):
    page_size = cache["k"].shape[1]
    page, slot = np.divmod(slot_mapping, page_size)
    wrapped = np.where(slot_mapping < 0, slot_mapping, page * page_size + slot.astype(np.uint8))
    return right.append(cache, k, v, wrapped.astype(slot_mapping.dtype), layout=layout)
