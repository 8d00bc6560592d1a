"""Wrong: results are rounded up or down by dice, which are the lower bits of a hash of the number itself."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_dice_are_the_bits_of_the_result"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, {"pv_truncates": True}


def _one(x, q, k, v):
    exact = attend(q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), x.sm_scale)[0].astype(np.float64)
    near = exact.astype(np.float32)
    other = np.nextafter(near, np.where(near < exact, np.inf, -np.inf).astype(np.float32))
    dice = (exact.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(63)
    return np.where((near != exact) & (dice == 1), other, near), attend(q, k, v, x.sm_scale)[1]


pq_decode_attention = attention(_one)
