"""Wrong: tokens that are not coded yet never reach the result."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention, read

NAME = "pq_residual_is_left_out"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def _read(x, seq, head):
    return [side[: x.kv_lens[seq]] for side in read(x, seq, head)]


pq_decode_attention = attention(read=_read)
