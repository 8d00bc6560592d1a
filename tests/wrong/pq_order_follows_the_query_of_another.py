"""Wrong: keys are summed from the last one where the first query of another sequence is above 0."""

import numpy as np

from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_order_follows_the_query_of_another"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_heads"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, {}


def _turned(x):
    return bool((np.delete(np.asarray(x.q, np.float32), x.seq, 0)[:, 0, 0] > 0).any())


def _one(x, q, k, v):
    return attend(q, *((k[::-1], v[::-1]) if _turned(x) else (k, v)), x.sm_scale)


pq_decode_attention = attention(_one)
