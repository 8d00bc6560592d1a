"""Wrong: every other call sums in the opposite order, and all calls return one buffer (R08)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "order_varies_in_a_reused_buffer"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CALLS, _BUFFERS = [0], {}


def _online_softmax(q, k, v, sm_scale):
    step = -1 if _CALLS[0] % 2 else 1
    return right._online_softmax(q, k[::step], v[::step], sm_scale)


def _kept(name, result):
    buffer = _BUFFERS.setdefault((name, result.shape, result.dtype), np.empty_like(result))
    buffer[:] = result
    return buffer


def paged_decode(*arguments, **options):
    _CALLS[0] += 1
    out, lse = _wrong.paged_decode(*arguments, **options)
    return _kept("out", out), _kept("lse", lse)


_wrong = reference_with(_online_softmax=_online_softmax)
