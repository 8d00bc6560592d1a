"""Wrong: slot -1 wraps to the end of the cache (O84)."""

from kvconform.impls import numpy_ref as right

NAME = "skipped_tokens_go_to_the_last_slot"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = right._views(cache, layout)[0].shape[:2]
    return right.append(cache, k, v, slot_mapping % (page * slot), layout=layout)
