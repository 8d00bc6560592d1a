"""Wrong: a call on the arguments of the last one sums the dims of a dot from the last."""

from kvconform.tests.wrong._pq import again, attend, attention

NAME = "pq_repeated_call_sums_dims_from_the_last"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_heads"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, {}

_second = attention(lambda x, q, k, v: attend(q[:, ::-1], k[:, ::-1], v, x.sm_scale))
pq_decode_attention = again(attention(), _second)
