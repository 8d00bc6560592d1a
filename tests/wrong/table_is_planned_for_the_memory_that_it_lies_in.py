"""Wrong: the plan of a step is made once for a block table in some memory, which serving writes over in each step."""

from kvconform.impls import numpy_ref as right

NAME = "table_is_planned_for_the_memory_that_it_lies_in"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = None, None


def paged_decode(q, cache, block_table, kv_lens, **options):
    global _PLANNED
    if _PLANNED[0] is not block_table:
        _PLANNED = block_table, block_table.copy()
    return right.paged_decode(q, cache, _PLANNED[1], kv_lens, **options)
