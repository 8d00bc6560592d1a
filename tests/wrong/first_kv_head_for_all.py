"""Wrong: the offset of the kv head is missing (O46)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "first_kv_head_for_all"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    first = {name: np.repeat(array[:, :, :1], array.shape[2], 2) for name, array in cache.items()}
    return right.paged_decode(q, first, block_table, kv_lens, **options)
