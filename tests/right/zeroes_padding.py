"""Right: padding of slots that are written is said to be undefined, and becomes zeros."""

from kvconform.impls import numpy_ref

NAME = "zeroes_padding"
BACKEND = "numpy"
_SMALL = {"layout": {"packed"}, "dtype": {"float32", "int8"}, "spare_pages": {0, 1, 3}}
OFFERS = {"append": _SMALL, "gather": _SMALL, "copy_pages": _SMALL}
CONVENTIONS = {"padding": "undefined"}

gather, copy_pages = numpy_ref.gather, numpy_ref.copy_pages


def append(cache, k, v, slot_mapping, *, layout, **told):
    cache = numpy_ref.append(cache, k, v, slot_mapping, layout=layout, **told)
    kv = cache["kv"].reshape(-1, cache["kv"].shape[2] * cache["kv"].shape[3], cache["kv"].shape[4])
    live = slot_mapping[slot_mapping >= 0]
    kv[live, :, k.shape[2] :] = 0
    kv[live, 2 * k.shape[1] :] = 0
    return cache
