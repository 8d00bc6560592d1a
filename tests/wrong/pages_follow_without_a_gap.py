"""Wrong: a page is taken to begin page_size slots behind the one before, whatever its own stride (O49, aiter#3498)."""

from numpy.lib.stride_tricks import as_strided

from kvconform.tests.wrong._reference import reference_with

NAME = "pages_follow_without_a_gap"
BACKEND = "numpy"
_ANY = {"strides": {"contiguous", "outer", "all"}}
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "num_kv_heads": 1, **_ANY}}


def _views(cache, layout):
    fields = cache["k"], cache["v"]
    return [as_strided(f, strides=(f.shape[1] * f.strides[1], *f.strides[1:])) for f in fields]


gather = reference_with(_views=_views, _whole=dict).gather
