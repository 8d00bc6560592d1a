"""Wrong: slots are kept in 16 bits where a table names the slot of each token."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "token_slots_are_kept_in_16_bits"
BACKEND = "numpy"
OFFERS = {
    op: {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "table_form": {"block_table", "token_slots"}}
    for op in ("paged_decode", "gather")
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _kept(table):
    if not isinstance(table, dict):
        return table
    return table | {"kv_indices": table["kv_indices"].astype(np.uint16).astype(np.int32)}


def paged_decode(q, cache, table, kv_lens, **options):
    return right.paged_decode(q, cache, _kept(table), kv_lens, **options)


def gather(cache, table, kv_lens, **options):
    return right.gather(cache, _kept(table), kv_lens, **options)
