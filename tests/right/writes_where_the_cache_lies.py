"""Right: everything happens in the cache itself, whatever its size, and slots out of range are dropped."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "writes_where_the_cache_lies"
BACKEND = "numpy"
_LARGE = {"layout": {"code_rows"}, "pool": {"dense", "sparse"}}
OFFERS = {"append": _LARGE, "gather": _LARGE, "copy_pages": _LARGE}
CONVENTIONS = {"slots_out_of_range": "drop", "duplicate_slots": "last"}
IN_PLACE = {"append": "cache", "copy_pages": "cache"}

gather = numpy_ref.gather


def append(cache, k, v, slot_mapping, *, layout):
    rows = cache["codes"].reshape(-1, k.shape[1])
    live = (slot_mapping >= 0) & (slot_mapping < len(rows))
    rows[slot_mapping[live].astype(np.int64)] = k[live]
    return cache


def copy_pages(cache, page_mapping, *, layout):
    for source, target in page_mapping:
        cache["codes"][target] = cache["codes"][source]
    return cache
