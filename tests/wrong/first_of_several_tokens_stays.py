"""Wrong: of several tokens for one slot the last one is said to stay, and the first one does."""

from kvconform.impls import numpy_ref as right

NAME = "first_of_several_tokens_stays"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"duplicate_slots": "last"}


def append(cache, k, v, slot_mapping, *, layout):
    return right.append(cache, k[::-1], v[::-1], slot_mapping[::-1], layout=layout)
