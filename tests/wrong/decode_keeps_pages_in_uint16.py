"""Wrong: attention keeps the number of a page in an unsigned integer of 16 bits."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "decode_keeps_pages_in_uint16"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "kv_lens": range(129)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    return right.paged_decode(q, cache, block_table.astype(np.uint16), kv_lens, layout=layout, sm_scale=sm_scale)
