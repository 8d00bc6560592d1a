"""Wrong: every sequence is read as long as the longest of the batch (O06, sglang#37735)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "longest_length_for_all"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, cache, block_table, np.full_like(kv_lens, kv_lens.max()), **options)
