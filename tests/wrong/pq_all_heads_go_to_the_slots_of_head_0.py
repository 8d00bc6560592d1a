"""Wrong: every kv head is written to the slots of the first one, as page ids of head 0 say."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_all_heads_go_to_the_slots_of_head_0"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, **sizes):
    for head in range(slot_mapping.shape[1]):
        one = (side[:, head : head + 1] for side in (k, v))
        cache = pq.append(cache, *one, (k_codebooks, v_codebooks), slot_mapping[:, :1], layout, dtype)
    return cache
