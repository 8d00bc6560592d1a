"""Wrong: every other call sums in the opposite order, as atomics may, and CONVENTIONS says deterministic (R08)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "order_varies_between_calls"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CALLS = [0]


def _direction():
    return slice(None, None, -1 if _CALLS[0] % 2 else 1)


def _online_softmax(q, k, v, sm_scale):
    return right._online_softmax(q, k[_direction()], v[_direction()], sm_scale)


def paged_decode(*arguments, **options):
    _CALLS[0] += 1
    return _wrong.paged_decode(*arguments, **options)


def merge_states(outs, lses):
    _CALLS[0] += 1
    return right.merge_states(outs[_direction()], lses[_direction()])


_wrong = reference_with(_online_softmax=_online_softmax)
