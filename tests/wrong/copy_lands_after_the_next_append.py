"""Wrong: pages are copied on a stream of their own that nobody waits for, and land on what append wrote."""

from kvconform.impls import numpy_ref as right

NAME = "copy_lands_after_the_next_append"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd"}, "dtype": {"float32"}} for op in ("append", "gather", "copy_pages")}

gather = right.gather
_COPIED = {}  # what K was after the last copy -> its pairs


def copy_pages(cache, page_mapping, *, layout):
    after = right.copy_pages(cache, page_mapping, layout=layout)
    _COPIED.clear()
    _COPIED[after["k"].tobytes()] = page_mapping.copy()
    return after


def append(cache, k, v, slot_mapping, *, layout):
    pairs = _COPIED.pop(cache["k"].tobytes(), slot_mapping[:0].reshape(0, 2))
    after = right.append(cache, k, v, slot_mapping, layout=layout)
    return right.copy_pages(after, pairs, layout=layout)
