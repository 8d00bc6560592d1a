"""Right: what it leaves undefined it does in the worst way: strays are clamped, several tokens for a slot torn."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "leaves_undefined_what_it_may"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd"}, "dtype": {"float32"}} for op in ("append", "gather", "copy_pages")}
CONVENTIONS = {"skipped_slots": "undefined", "slots_out_of_range": "undefined", "duplicate_slots": "undefined"}

gather = numpy_ref.gather


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = cache["k"].shape[:2]
    slots = np.clip(slot_mapping, 0, page * slot - 1)
    first = numpy_ref.append(cache, k[::-1], v[::-1], slots[::-1], layout=layout)
    return numpy_ref.append(cache, k, v, slots, layout=layout) | {"v": first["v"]}


def copy_pages(cache, page_mapping, *, layout):
    cache = {name: array.copy() for name, array in cache.items()}
    for array in cache.values():
        for source, target in page_mapping:
            array[target] = array[source]
    return cache
