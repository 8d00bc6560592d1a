"""Wrong: a page is taken to begin page_size slots behind the one before, whatever its own stride (O49, aiter#3498)."""

from numpy.lib.stride_tricks import as_strided

from kvconform.tests.wrong._reference import reference_with

NAME = "pages_follow_without_a_gap"
BACKEND = "numpy"
OFFERS = {
    "gather": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "strides": {"contiguous", "outer", "all"}},
}


def _views(cache, layout):
    fields = cache["k"], cache["v"]
    return [as_strided(f, strides=(f.shape[1] * f.strides[1], *f.strides[1:])) for f in fields]


gather = reference_with(_views=_views).gather
