"""Wrong: what is planned for the shapes of a call is kept for all that have them, and the cap with it
(flashinfer#4014)."""

from kvconform.impls import numpy_ref as right

NAME = "soft_cap_is_planned_for_a_shape"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "soft_cap": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, soft_cap=None, **options):
    planned = layout, q.dtype, q.shape, block_table.shape, *(array.shape for array in cache.values())
    soft_cap = _PLANNED.setdefault(planned, soft_cap)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, soft_cap=soft_cap, **options)
