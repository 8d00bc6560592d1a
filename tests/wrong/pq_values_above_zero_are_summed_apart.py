"""Wrong: values above 0 and below it are summed by themselves."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_values_above_zero_are_summed_apart"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, {"pv_truncates": True}


def _one(x, q, k, v):
    out, lse = attend(q, k, np.maximum(v, 0), x.sm_scale)
    below = attend(q, k[::-1], np.minimum(v, 0)[::-1], x.sm_scale)[0]
    return out + below, lse


pq_decode_attention = attention(_one)
