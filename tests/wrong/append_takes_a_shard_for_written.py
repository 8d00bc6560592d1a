"""Wrong: fewer heads of the call before, known by slots and first head, are taken to be in the cache already."""

from kvconform.impls import numpy_ref as right

NAME = "append_takes_a_shard_for_written"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32"}}}

_HEADS = {}


def append(cache, k, v, slot_mapping, *, layout):
    heads = k.shape[1]
    known = _HEADS.get((slot_mapping.tobytes(), k[:, 0].tobytes()), 0)
    _HEADS.clear()
    if known > heads:
        return {name: array.copy() for name, array in cache.items()}
    _HEADS[slot_mapping.tobytes(), k[:, 0].tobytes()] = heads
    return right.append(cache, k, v, slot_mapping, layout=layout)
