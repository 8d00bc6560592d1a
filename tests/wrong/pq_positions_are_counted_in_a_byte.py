"""Wrong: positions of tokens are counted in a byte."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention, read

NAME = "pq_positions_are_counted_in_a_byte"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def _read(x, seq, head):
    at = np.arange(x.kv_lens[seq] + x.residual_lens[seq])
    at = np.where(at < x.kv_lens[seq], at % 256, at)
    return [side[at] for side in read(x, seq, head)]


pq_decode_attention = attention(read=_read)
