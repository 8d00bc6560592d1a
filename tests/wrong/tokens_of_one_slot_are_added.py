"""Wrong: slots are cleared and tokens added to them, so that several for one slot become their sum."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "tokens_of_one_slot_are_added"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"int8", "uint8"}}}
CONVENTIONS = {"duplicate_slots": "one"}


def append(cache, k, v, slot_mapping, *, layout):
    live = slot_mapping >= 0
    cache = right.append(cache, np.zeros_like(k), np.zeros_like(v), slot_mapping, layout=layout)
    for name, rows in (("k", k), ("v", v)):
        np.add.at(cache[name], np.divmod(slot_mapping[live], cache[name].shape[1]), rows[live])
    return cache
