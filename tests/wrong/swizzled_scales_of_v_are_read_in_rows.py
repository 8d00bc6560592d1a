"""Wrong: scales of V are read in rows of a slot, where four slots are woven."""

from kvconform.impls.numpy_kernels.views import VIEWS
from kvconform.tests.wrong._reference import reference_with

NAME = "swizzled_scales_of_v_are_read_in_rows"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nvfp4_swizzled"}, "spare_pages": {0, 1, 3}} for op in ("append", "gather")}


def _views(cache, layout, **told):
    k, v = VIEWS[layout](cache, told)
    pages, slots, heads, blocks = k["k_scale"].shape
    rows = cache["kv_cache"][:, -heads * slots * blocks :].view(k["k_scale"].dtype)
    return k, v | {"v_scale": rows.reshape(pages, heads, slots, blocks).swapaxes(1, 2)}


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
