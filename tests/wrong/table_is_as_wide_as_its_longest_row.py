"""Wrong: rows of the block table are taken to be as wide as the longest sequence needs (O38)."""

from kvconform.impls import numpy_ref as right

NAME = "table_is_as_wide_as_its_longest_row"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    size = right._views(cache, layout)[0].shape[1]
    used = max(1, -(-int(kv_lens.max()) // size))
    table = block_table.ravel()[: len(block_table) * used].reshape(-1, used)
    return right.paged_decode(q, cache, table, kv_lens, layout=layout, sm_scale=sm_scale)
