"""Wrong: V is taken to begin at the middle of the row, as if it were as wide as K."""

from kvconform.tests.wrong._reference import reference_with

NAME = "v_starts_at_half_of_the_row"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"beside_nhd_diffkv"}, "dtype": {"float32", "bfloat16"}} for op in ("append", "gather")}


def _views(cache, layout, *, head_dim, head_dim_v):
    """A V wider than K cannot begin there, and is read from the row's end."""
    kv = cache["kv"]
    start = min(kv.shape[-1] // 2, kv.shape[-1] - head_dim_v)
    return kv[..., :head_dim], kv[..., start : start + head_dim_v]


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
