"""Wrong: one block of 1024 threads, a token each."""

from kvconform.impls import numpy_ref as right

NAME = "tokens_past_the_1024th_are_not_appended"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "int8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append(cache, k, v, slot_mapping, *, layout):
    slots = slot_mapping.copy()
    slots[1024:] = -1
    return right.append(cache, k, v, slots, layout=layout)
