"""Wrong: a slot is cleared as far as the next one begins, whatever lies between them (T10, vllm#50276)."""

import numpy as np

NAME = "append_clears_the_slot_to_its_stride"
BACKEND = "numpy"
_ANY = {"strides": {"contiguous", "outer", "all"}}
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "num_kv_heads": 1, **_ANY}}
IN_PLACE = {"append": "cache"}


def append(cache, k, v, slot_mapping, *, layout):
    for name, rows in (("k", k), ("v", v)):
        field = cache[name]
        span = field.strides[1] // field.itemsize
        for index in np.flatnonzero(slot_mapping >= 0):
            slot = field[divmod(slot_mapping[index], field.shape[1])]
            np.lib.stride_tricks.as_strided(slot, (span,), (field.itemsize,))[:] = 0
            slot[:] = rows[index]
    return cache
