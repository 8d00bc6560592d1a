"""Wrong: kernels are cached by shape and layout, with the scale they were first compiled for (O88, flashinfer#4014)."""

from kvconform.impls import numpy_ref as right

NAME = "sm_scale_of_the_first_call"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "static": True}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_COMPILED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    scale = _COMPILED.setdefault((q.shape, q.dtype, layout), sm_scale)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=scale)
