"""Wrong: scores are scaled twice."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_sm_scale_is_applied_twice"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

pq_decode_attention = attention(lambda x, q, k, v: attend(q, k, v, x.sm_scale**2))
