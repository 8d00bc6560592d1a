"""Wrong: a call on the arguments of the last one sums its keys from the last."""

from kvconform.tests.wrong._pq import again, attend, attention

NAME = "pq_repeated_call_sums_from_the_last_key"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_heads"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, {}

pq_decode_attention = again(attention(), attention(lambda x, q, k, v: attend(q, k[::-1], v[::-1], x.sm_scale)))
