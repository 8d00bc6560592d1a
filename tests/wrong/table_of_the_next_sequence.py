"""Wrong: each sequence reads the pages of the next one (O37)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "table_of_the_next_sequence"
BACKEND = "numpy"
OFFERS = {
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache, np.roll(block_table, -1, 0), kv_lens, layout=layout)


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, cache, np.roll(block_table, -1, 0), kv_lens, **options)
