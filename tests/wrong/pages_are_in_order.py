"""Wrong: the block table is ignored (O37, vllm#42420)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "pages_are_in_order"
BACKEND = "numpy"
OFFERS = {
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _in_order(block_table):
    return np.zeros_like(block_table) + np.arange(block_table.shape[1])


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache, _in_order(block_table), kv_lens, layout=layout)


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, cache, _in_order(block_table), kv_lens, **options)
