"""Wrong: each head has a block of its own, and of several tokens for one slot another stays in head 0."""

from kvconform.impls import numpy_ref as right

NAME = "each_head_keeps_a_token_of_its_own"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"duplicate_slots": "one"}


def append(cache, k, v, slot_mapping, *, layout):
    first = right.append(cache, k[::-1], v[::-1], slot_mapping[::-1], layout=layout)
    last = right.append(cache, k, v, slot_mapping, layout=layout)
    for name, field in last.items():
        field[:, :, 0] = first[name][:, :, 0]
    return last
