"""Wrong: slot_mapping is taken for int32 whatever it is (O53, flashinfer#1654)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "wide_slots_are_read_as_int32"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def append(cache, k, v, slot_mapping, *, layout):
    return right.append(cache, k, v, slot_mapping.view(np.int32)[: len(slot_mapping)], layout=layout)
