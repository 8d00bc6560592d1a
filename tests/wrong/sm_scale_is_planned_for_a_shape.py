"""Wrong: what is planned for the shapes of a call is kept for all that have them, and the scale with it
(flashinfer#4014)."""

from kvconform.impls import numpy_ref as right

NAME = "sm_scale_is_planned_for_a_shape"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, **options):
    planned = layout, q.dtype, q.shape, block_table.shape, *(array.shape for array in cache.values())
    sm_scale = _PLANNED.setdefault(planned, sm_scale)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale, **options)
