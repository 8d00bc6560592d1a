"""Wrong: lse is a logarithm to base 2 and declared a natural one."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_lse_is_base_2"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def _one(x, q, k, v):
    out, lse = attend(q, k, v, x.sm_scale)
    return out, lse / np.float32(np.log(2))


pq_decode_attention = attention(_one)
