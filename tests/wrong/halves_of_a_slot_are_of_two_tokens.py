"""Wrong: a token is written in vectors, and of several tokens for one slot each wins some of them."""

from kvconform.impls import numpy_ref as right

NAME = "halves_of_a_slot_are_of_two_tokens"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"duplicate_slots": "one"}


def append(cache, k, v, slot_mapping, *, layout):
    first = right.append(cache, k[::-1], v[::-1], slot_mapping[::-1], layout=layout)
    last = right.append(cache, k, v, slot_mapping, layout=layout)
    for name, field in last.items():
        half = field.shape[-1] // 2
        field[..., :half] = first[name][..., :half]
    return last
