"""Wrong: a plan is found again by slots and first head, with the stride of a token in the cache it was made for."""

from kvconform.impls import numpy_ref as right

NAME = "append_keeps_the_token_stride_of_its_plan"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32"}}}

_HEADS = {}


def append(cache, k, v, slot_mapping, *, layout):
    heads = k.shape[1]
    stride = _HEADS.setdefault((slot_mapping.tobytes(), k[:, 0].tobytes()), heads)
    after = right.append(cache, k, v, slot_mapping, layout=layout)
    if stride == heads:
        return after
    after = {name: array.copy() for name, array in cache.items()}
    for name, rows in (("k", k), ("v", v)):
        by_head = after[name].reshape(-1, k.shape[2])
        for slot, row in zip(slot_mapping.tolist(), rows, strict=True):
            if slot >= 0 and slot * stride + heads <= len(by_head):
                by_head[slot * stride : slot * stride + heads] = row
    return after
