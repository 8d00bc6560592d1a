"""Wrong: keys are summed from the last one where K of the residual of another sequence begins below 0."""

from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_order_follows_the_residual_of_another"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_heads"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, {}


def _turned(x):
    return any(x.residual_lens[s] and x.residual_k[s, 0, 0, 0] < 0 for s in range(len(x.q)) if s != x.seq)


def _one(x, q, k, v):
    return attend(q, *((k[::-1], v[::-1]) if _turned(x) else (k, v)), x.sm_scale)


pq_decode_attention = attention(_one)
