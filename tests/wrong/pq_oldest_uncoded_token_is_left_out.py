"""Wrong: the oldest token that is not coded is left out."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention, read

NAME = "pq_oldest_uncoded_token_is_left_out"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def _read(x, seq, head):
    k, v = read(x, seq, head)
    kept = np.arange(len(k)) != x.kv_lens[seq]
    return k[kept], v[kept]


pq_decode_attention = attention(read=_read)
