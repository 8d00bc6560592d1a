"""Wrong: keys are summed from the last one where a code of the first page of another sequence is odd."""

from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_order_follows_codes_of_another"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_heads"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, {}


def _first(x, seq):
    return x.page_ids[seq, 0, 0]


def _turned(x):
    return any(x.kv_lens[s] and x.cache["k"][_first(x, s), 0, 0] & 1 for s in range(len(x.q)) if s != x.seq)


def _one(x, q, k, v):
    return attend(q, *((k[::-1], v[::-1]) if _turned(x) else (k, v)), x.sm_scale)


pq_decode_attention = attention(_one)
