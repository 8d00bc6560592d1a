"""Wrong: q head h reads kv head h % num_kv_heads."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_q_heads_are_dealt_out"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(q, cache, k_codebooks, v_codebooks, page_ids, *arrays, **options):
    order = np.arange(q.shape[1]).reshape(-1, page_ids.shape[1]).T.ravel()
    out, lse = _right(q[:, order], cache, k_codebooks, v_codebooks, page_ids, *arrays, **options)
    return out[:, np.argsort(order)], lse[:, np.argsort(order)]
