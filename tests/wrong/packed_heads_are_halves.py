"""Wrong: a row of packed holds all heads of K, then all of V."""

from kvconform.tests.wrong._reference import reference_with

NAME = "packed_heads_are_halves"
BACKEND = "numpy"
OFFERS = {
    op: {"layout": {"packed"}, "dtype": {"bfloat16", "int8"}, "spare_pages": {0, 1, 3}} for op in ("append", "gather")
}


def _views(cache, layout, *, num_kv_heads, head_dim, **told):
    pages, slots, rows, pack, lane = cache["kv"].shape
    heads = cache["kv"].reshape(pages, slots, rows * pack, lane)[..., :head_dim]
    half = rows * pack // 2
    return heads[:, :, :num_kv_heads], heads[:, :, half : half + num_kv_heads]


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
