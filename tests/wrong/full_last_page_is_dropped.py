"""Wrong: last_page_len is taken modulo page_size, so that a last page that is full has no token."""

from kvconform.impls import numpy_ref as right

NAME = "full_last_page_is_dropped"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "table_form": {"block_table", "csr"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, table, kv_lens, **options):
    if isinstance(table, dict):
        table = table | {"last_page_len": table["last_page_len"] % cache["k"].shape[1]}
    return right.paged_decode(q, cache, table, kv_lens, **options)
