"""Wrong: K and V are written by kernels of their own, and each lets another of several tokens win the slot."""

from kvconform.impls import numpy_ref as right

NAME = "k_of_the_last_token_stays_with_v_of_the_first"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"duplicate_slots": "one"}


def append(cache, k, v, slot_mapping, *, layout):
    first = right.append(cache, k[::-1], v[::-1], slot_mapping[::-1], layout=layout)
    last = right.append(cache, k, v, slot_mapping, layout=layout)
    return {"k": last["k"], "v": first["v"]}
