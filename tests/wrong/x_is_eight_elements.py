"""Wrong: the chunks of split_x hold 8 elements whatever their size, right for two bytes only (O44)."""

from kvconform.tests.wrong._reference import reference_with

NAME = "x_is_eight_elements"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"split_x"}, "dtype": {"float32", "bfloat16"}, "head_dim": {8, 16, 24}},
    "gather": {"layout": {"split_x"}, "dtype": {"float32", "bfloat16"}, "head_dim": {8, 16, 24}},
}


def _views(cache, layout):
    pages, heads, _, slots, _ = cache["k"].shape
    k = cache["k"].reshape(pages, heads, -1, slots, 8)
    return k.transpose(0, 3, 1, 2, 4), cache["v"].transpose(0, 3, 1, 2)


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
