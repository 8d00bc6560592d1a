"""Wrong: heads of packed follow without the ones that fill a word up."""

from kvconform.tests.wrong._reference import reference_with

NAME = "packed_heads_are_not_padded"
BACKEND = "numpy"
OFFERS = {
    op: {"layout": {"packed"}, "dtype": {"int8", "float8_e4m3fn"}, "spare_pages": {0, 1, 3}}
    for op in ("append", "gather")
}


def _views(cache, layout, *, num_kv_heads, head_dim, **told):
    pages, slots, _, _, lane = cache["kv"].shape
    rows = cache["kv"].reshape(pages, -1, lane)[:, : slots * 2 * num_kv_heads, :head_dim]
    rows = rows.reshape(pages, slots, 2 * num_kv_heads, head_dim)
    return rows[:, :, 0::2], rows[:, :, 1::2]


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
