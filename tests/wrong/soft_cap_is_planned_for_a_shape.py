"""Wrong: what is planned for the shapes of a call is kept for all that have them, and that there is no cap with it
(flashinfer#4014)."""

from kvconform.impls import numpy_ref as right

NAME = "soft_cap_is_planned_for_a_shape"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "soft_cap": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, soft_cap=None, **options):
    planned = layout, q.dtype, q.shape, block_table.shape, *(array.shape for array in cache.values())
    bends = _PLANNED.setdefault(planned, soft_cap is not None)
    cap = soft_cap if bends else None
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, soft_cap=cap, **options)
