"""Wrong: a token has the seven bytes of scales it uses, where eight are stored."""

from kvconform.impls.numpy_kernels.views import VIEWS
from kvconform.tests.wrong._reference import reference_with

NAME = "mla_scales_behind_are_seven_bytes"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"mla_scales_behind"}} for op in ("append", "gather")}


def _views(cache, layout, **told):
    k, v = VIEWS[layout](cache, told)
    pages, slots = k["nope"].shape[:2]
    begin = slots * (448 + 2 * 64)
    scales = cache["kv_cache"][:, begin : begin + 7 * slots]
    return k | {"nope_scale": scales.reshape(pages, slots, 7)}, v


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
