"""Wrong: q heads of a group beyond the fourth are those of the first four."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_heads_past_the_fourth_are_the_first_four"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def _one(x, q, k, v):
    return attend(q[np.arange(len(q)) % 4], k, v, x.sm_scale)


pq_decode_attention = attention(_one)
