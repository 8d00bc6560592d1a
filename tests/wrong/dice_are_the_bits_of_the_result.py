"""Wrong: results are rounded up or down by dice, which are the lower bits of a hash of the number itself.

The same call gives the same bits, as a user of stochastic rounding would want it; V of another size does not.
"""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "dice_are_the_bits_of_the_result"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"tile": 2**31, "pv_truncates": True}


def _thrown(exact):
    near = exact.astype(np.float32)
    other = np.nextafter(near, np.where(near < exact, np.inf, -np.inf).astype(np.float32))
    dice = (exact.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(63)
    return np.where((near != exact) & (dice == 1), other, near)


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    top = score.max(-1)
    p = np.exp(score - top[..., None])
    total = p.sum(-1)
    return _thrown(np.einsum("hgn,nhd->hgd", p, v).astype(np.float64) / total[..., None]), top + np.log(total)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode


append_decode = fused(paged_decode)
