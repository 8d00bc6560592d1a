"""Wrong: the last division rounds toward plus infinity."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_division_rounds_up"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, {"pv_truncates": True}


def _one(x, q, k, v):
    _, lse = attend(q, k, v, x.sm_scale)
    exact = attend(q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), x.sm_scale)[0]
    near = exact.astype(np.float32)
    return np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near), lse


pq_decode_attention = attention(_one)
