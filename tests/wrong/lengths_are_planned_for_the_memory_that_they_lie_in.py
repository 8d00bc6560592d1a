"""Wrong: splits are planned once for lengths in some memory, which serving writes over in each step."""

from kvconform.impls import numpy_ref as right

NAME = "lengths_are_planned_for_the_memory_that_they_lie_in"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = None, None


def paged_decode(q, cache, block_table, kv_lens, **options):
    global _PLANNED
    if _PLANNED[0] is not kv_lens:
        _PLANNED = kv_lens, kv_lens.copy()
    return right.paged_decode(q, cache, block_table, _PLANNED[1], **options)
