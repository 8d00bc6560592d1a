"""Wrong: keys are summed from the last one where a row of the residual that is none is not 0."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_order_follows_a_dead_row"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, {}


def _turned(x):
    return bool(np.asarray(x.residual_k[x.seq, x.residual_lens[x.seq] :], np.float32).any())


def _one(x, q, k, v):
    return attend(q, *((k[::-1], v[::-1]) if _turned(x) else (k, v)), x.sm_scale)


pq_decode_attention = attention(_one)
