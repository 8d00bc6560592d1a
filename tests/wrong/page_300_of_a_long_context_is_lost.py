"""Wrong: the 301st page of a sequence is passed over, and of the arithmetic nothing is declared that would show it."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "page_300_of_a_long_context_is_lost"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "page_size": {1, 4}}}
CONVENTIONS = right.CONVENTIONS
LOST = 300


def paged_decode(q, cache, block_table, kv_lens, *, layout, **options):
    page_size = cache["k"].shape[{"nhd": 1, "hnd": 2}[layout]]
    if block_table.shape[1] > LOST:
        kept = np.delete(block_table, LOST, axis=1)
        longer = kv_lens > LOST * page_size
        block_table = np.where(longer[:, None], kept, block_table[:, : kept.shape[1]])
        kv_lens = np.where(longer, np.maximum(kv_lens - page_size, LOST * page_size), kv_lens).astype(kv_lens.dtype)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, **options)
