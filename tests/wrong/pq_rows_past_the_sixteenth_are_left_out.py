"""Wrong: rows of the residual beyond the sixteenth are left out."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention, read

NAME = "pq_rows_past_the_sixteenth_are_left_out"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def _read(x, seq, head):
    return [side[: x.kv_lens[seq] + 16] for side in read(x, seq, head)]


pq_decode_attention = attention(read=_read)
