"""Wrong: a slot is written as a whole, zeros behind its last element, where its padding is said to be kept."""

from kvconform.impls import numpy_ref as right

NAME = "padding_is_zeroed_where_kept_is_declared"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"packed"}, "dtype": {"float32", "bfloat16"}, "spare_pages": {0, 1, 3}}}
CONVENTIONS = {"padding": "kept"}


def append(cache, k, v, slot_mapping, *, layout, **told):
    cache = right.append(cache, k, v, slot_mapping, layout=layout, **told)
    live = slot_mapping[slot_mapping >= 0]
    cache["kv"].reshape(-1, *cache["kv"].shape[2:])[live, ..., k.shape[2] :] = 0
    return cache
