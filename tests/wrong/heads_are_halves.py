"""Wrong: a page of the interleaved cache holds all heads of K, then all of V (O46)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "heads_are_halves"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"interleaved"}, "dtype": {"float32", "bfloat16"}},
    "gather": {"layout": {"interleaved"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"interleaved"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _views(cache, layout):
    heads = cache["kv"].shape[2] // 2
    return cache["kv"][:, :, :heads], cache["kv"][:, :, heads:]


_wrong = reference_with(_views=_views)
append, gather, paged_decode = _wrong.append, _wrong.gather, _wrong.paged_decode
