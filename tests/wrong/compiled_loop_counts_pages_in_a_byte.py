"""Wrong: a kernel that is compiled for its shapes counts the pages of a row in eight bits: 256 of them are none."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "compiled_loop_counts_pages_in_a_byte"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "page_size": {4, 16}, "static": True}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    size = cache["k"].shape[1]
    lost = np.where(kv_lens > 256 * size, 256 * size, 0)
    return right.paged_decode(q, cache, block_table, kv_lens - lost.astype(kv_lens.dtype), **options)
