"""Wrong: of token slots every page_size-th is taken for a page, as if all sequences had whole ones (sglang-jax)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "slots_are_strided_by_the_page"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "table_form": {"block_table", "token_slots"}}
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, table, kv_lens, **options):
    if isinstance(table, dict):
        size = cache["k"].shape[1]
        pages = table["kv_indices"][::size] // size
        counts = -(-kv_lens // size)
        columns = np.arange(max(1, counts.max()))
        table = np.take(np.append(pages, 0), (np.cumsum(counts) - counts)[:, None] + columns, mode="clip")
    return right.paged_decode(q, cache, table, kv_lens, **options)
