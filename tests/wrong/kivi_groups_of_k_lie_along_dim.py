"""Wrong: scales of K belong to 32 values of dim, as those of V do, and not to 32 slots."""

from kvconform.impls.numpy_kernels.parts import shared
from kvconform.impls.numpy_kernels.views import VIEWS
from kvconform.tests.wrong._reference import reference_with

NAME = "kivi_groups_of_k_lie_along_dim"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"kivi"}, "dtype": {"uint4"}} for op in ("append", "gather")}


def _views(cache, layout):
    k, v = VIEWS[layout](cache, {})
    pages, heads, dim, groups = cache["k_scale"].shape

    def along_dim(scale):
        rows = scale.reshape(pages, heads, 32 * groups, dim // 32)
        return shared(rows, 3, 32).swapaxes(1, 2)

    return k | {name: along_dim(cache[name]) for name in ("k_scale", "k_zero")}, v


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
