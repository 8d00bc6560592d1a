"""Wrong: a sequence without pages has last_page_len tokens, in the first page of the next one (get_seq_lens)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "empty_sequences_have_a_last_page"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "table_form": {"block_table", "csr"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, table, kv_lens, **options):
    if isinstance(table, dict):
        begins, size = table["kv_indptr"], cache["k"].shape[1]
        kv_lens = np.maximum(np.diff(begins) - 1, 0) * size + table["last_page_len"]
        columns = np.arange(-(-kv_lens.max() // size))
        table = np.take(table["kv_indices"], begins[:-1, None] + columns, mode="clip")
    return right.paged_decode(q, cache, table, kv_lens, **options)
