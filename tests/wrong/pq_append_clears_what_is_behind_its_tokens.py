"""Wrong: slots of V behind the last token of a page are set to 0."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_append_clears_what_is_behind_its_tokens"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, **sizes):
    size, found = sizes["page_size"], pq.append(cache, k, v, (k_codebooks, v_codebooks), slot_mapping, layout, dtype)
    live = slot_mapping[slot_mapping >= 0]
    for page in set((live // size).tolist()):
        found["v"][page, :, live[live // size == page].max() % size + 1 :] = 0
    return found
