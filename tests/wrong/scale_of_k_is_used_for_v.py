"""Wrong: V is scaled by the scale of K."""

from kvconform.impls.numpy_kernels.views import VIEWS
from kvconform.tests.wrong._reference import reference_with

NAME = "scale_of_k_is_used_for_v"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"token_head_scales"}, "dtype": {"int8"}} for op in ("append", "gather")}


def _views(cache, layout, **told):
    k, v = VIEWS[layout](cache, {"dtype": "int8"})
    return k, v | {"v_scale": k["k_scale"]}


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
