"""Wrong: an hnd page is addressed as an nhd page (O44, vllm#49012)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "hnd_is_read_as_nhd"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"hnd"}, "dtype": {"float32", "bfloat16"}},
    "gather": {"layout": {"hnd"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"hnd"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _views(cache, layout):
    pages, heads, slots, dim = cache["k"].shape
    return tuple(cache[side].reshape(pages, slots, heads, dim) for side in "kv")


_wrong = reference_with(_views=_views)
append, gather, paged_decode = _wrong.append, _wrong.gather, _wrong.paged_decode
