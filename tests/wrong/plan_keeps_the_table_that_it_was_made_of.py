"""Wrong: a plan is kept while lengths and first pages are the same, and reads on in the table that it was made of."""

from kvconform.impls import numpy_ref as right

NAME = "plan_keeps_the_table_that_it_was_made_of"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = None, None


def paged_decode(q, cache, block_table, kv_lens, **options):
    global _PLANNED
    first = block_table[:, 0].tolist(), kv_lens.tolist(), block_table.shape
    if _PLANNED[0] != first:
        _PLANNED = first, block_table
    return right.paged_decode(q, cache, _PLANNED[1], kv_lens, **options)
