"""Wrong: the scales of a page are looked up by the low 16 bits of its number."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "scales_of_pages_are_found_by_16_bits"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"int8"}, "q_dtype": {"float32"}, "kv_scales": {"none", "page"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _found(scale):
    return None if scale is None else scale[np.arange(len(scale)) % (1 << 16)]


def paged_decode(*arguments, k_scale=None, v_scale=None, **options):
    return right.paged_decode(*arguments, k_scale=_found(k_scale), v_scale=_found(v_scale), **options)
