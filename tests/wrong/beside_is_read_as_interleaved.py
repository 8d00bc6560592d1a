"""Wrong: K has the even elements of a head's row and V the odd ones, where halves lie."""

from kvconform.tests.wrong._reference import reference_with

NAME = "beside_is_read_as_interleaved"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"beside_nhd"}, "dtype": {"float32", "bfloat16"}} for op in ("append", "gather")}


def _views(cache, layout):
    return cache["kv"][..., 0::2], cache["kv"][..., 1::2]


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
