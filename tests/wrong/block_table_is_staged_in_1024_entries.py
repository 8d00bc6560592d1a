"""Wrong: of a row of the block table 1024 entries are staged, and the pages behind them are not read."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "block_table_is_staged_in_1024_entries"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    staged = np.minimum(kv_lens, 1024 * cache["k"].shape[1]).astype(kv_lens.dtype)
    return right.paged_decode(q, cache, block_table, staged, **options)
