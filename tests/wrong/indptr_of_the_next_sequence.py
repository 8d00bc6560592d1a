"""Wrong: kv_indptr is read one row too far: each sequence begins where its own pages end."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "indptr_of_the_next_sequence"
BACKEND = "numpy"
_FORMS = {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "table_form": {"block_table", "csr"}}
OFFERS = {"gather": _FORMS, "paged_decode": _FORMS}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _moved(table, kv_lens, size):
    if not isinstance(table, dict):
        return table
    columns = np.arange(max(1, -(-kv_lens.max() // size)))
    entries = np.append(table["kv_indices"], np.zeros_like(columns))
    return entries[table["kv_indptr"][1:, None] + columns]


def gather(cache, table, kv_lens, **options):
    return right.gather(cache, _moved(table, kv_lens, cache["k"].shape[1]), kv_lens, **options)


def paged_decode(q, cache, table, kv_lens, **options):
    return right.paged_decode(q, cache, _moved(table, kv_lens, cache["k"].shape[1]), kv_lens, **options)
