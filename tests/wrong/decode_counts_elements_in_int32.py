"""Wrong: where a page begins is counted in elements, in a signed integer of 32 bits, which wraps (D03, vllm#47671)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "decode_counts_elements_in_int32"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "pool": {"dense", "sparse"}, "kv_lens": range(129)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    size = int(np.prod(cache["k"].shape[1:]))
    begin = (block_table.astype(np.int64) * size).astype(np.int32)
    pages = np.clip(begin // size, 0, len(cache["k"]) - 1)
    return right.paged_decode(q, cache, pages, kv_lens, layout=layout, sm_scale=sm_scale)
