"""Wrong: page indices are copied by a plan, which runs again only where lengths or the first page of a row change."""

from kvconform.impls import numpy_ref as right

NAME = "pages_are_planned_by_the_first_of_each_row"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = None, None


def paged_decode(q, cache, block_table, kv_lens, **options):
    global _PLANNED
    first = block_table[:, 0].tolist(), kv_lens.tolist(), block_table.shape
    if _PLANNED[0] != first:
        _PLANNED = first, block_table.copy()
    return right.paged_decode(q, cache, _PLANNED[1], kv_lens, **options)
