"""Wrong: the number of tiles is kept in eight bits, so that 512 of them are none (O51a)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "tiles_are_counted_in_a_byte"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "bshd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    tiles = -(-len(k) // right.TILE)
    return right._online_softmax(q, k[: tiles % 256 * right.TILE], v[: tiles % 256 * right.TILE], sm_scale)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
append_decode = fused(paged_decode)
