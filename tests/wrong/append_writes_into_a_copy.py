"""Wrong: the cache is flattened by reshape, which copies one that is not contiguous, and the writes are lost (T08)."""

from kvconform.impls import torch_ref as right

NAME = "append_writes_into_a_copy"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {
    "append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "strides": {"contiguous", "outer", "all"}},
}
IN_PLACE = {"append": "cache"}

to_device, to_host = right.to_device, right.to_host


def append(cache, k, v, slot_mapping, *, layout):
    live = slot_mapping >= 0
    for name, rows in (("k", k), ("v", v)):
        cache[name].reshape(-1, *rows.shape[1:])[slot_mapping[live].long()] = rows[live]
    return cache
