"""Wrong: a copied page is known as its source and read there, although it has been written since."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "copied_page_is_read_where_it_came_from"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd"}, "dtype": {"float32"}} for op in ("append", "gather", "copy_pages")}

_COPIED = {}  # what K was after the last copy -> its pairs


def copy_pages(cache, page_mapping, *, layout):
    after = right.copy_pages(cache, page_mapping, layout=layout)
    _COPIED.clear()
    _COPIED[after["k"].tobytes()] = page_mapping.copy()
    return after


def append(cache, k, v, slot_mapping, *, layout):
    after = right.append(cache, k, v, slot_mapping, layout=layout)
    _COPIED[after["k"].tobytes()] = _COPIED.pop(cache["k"].tobytes(), ())
    return after


def gather(cache, block_table, kv_lens, *, layout):
    for source, target in _COPIED.get(cache["k"].tobytes(), ()):
        block_table = np.where(block_table == target, source, block_table)
    return right.gather(cache, block_table, kv_lens, layout=layout)
