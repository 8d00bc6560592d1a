"""Wrong: the newest slot keeps the page it had before the copy, so that the child writes into its parent's page."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "write_after_a_copy_goes_to_the_source"
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
    size = cache["k"].shape[1]
    page = slot_mapping // size
    for source, target in _COPIED.pop(cache["k"].tobytes(), ()):
        page = np.where(page == target, source, page)
    return right.append(cache, k, v, page * size + slot_mapping % size, layout=layout)
