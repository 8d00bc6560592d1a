"""Wrong: a token at slot -1 is written to the last slot, before the others are."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_skipped_tokens_go_to_the_last_slot"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, **sizes):
    end = len(cache["k"]) * sizes["page_size"]
    books = k_codebooks, v_codebooks
    for token, head in np.argwhere(slot_mapping == -1):
        one = (side[token, head][None, None] for side in (k, v))
        cache = pq.append(cache, *one, books, np.array([[end - 1]]), layout, dtype)
    return pq.append(cache, k, v, books, slot_mapping, layout, dtype)
