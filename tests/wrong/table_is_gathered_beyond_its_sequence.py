"""Wrong: whole table rows are gathered, what is past a sequence dropped afterwards (B01, flash-attention#2709)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "table_is_gathered_beyond_its_sequence"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}}}
CONVENTIONS = right.CONVENTIONS | {"table_padding": {"valid", "minus_one", "huge"}}
ARITHMETIC = right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    used = {name: array[np.maximum(block_table, 0)] for name, array in cache.items()}
    num_seqs, width = block_table.shape
    whole = {name: array.reshape(num_seqs * width, *array.shape[2:]) for name, array in used.items()}
    table = np.arange(num_seqs * width, dtype=block_table.dtype).reshape(num_seqs, width)
    return right.paged_decode(q, whole, table, kv_lens, layout=layout, sm_scale=sm_scale)
