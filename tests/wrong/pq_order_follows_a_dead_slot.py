"""Wrong: keys are summed from the last one where the last slot of the last page of codes is odd."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_order_follows_a_dead_slot"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, {}


def last(x):
    return x.page_ids[x.seq, x.head][(x.kv_lens[x.seq] - 1) // x.page_size]


def _turned(x):
    return bool(x.kv_lens[x.seq] % x.page_size and x.cache["k"][last(x), -1, 0] & 1)


def _one(x, q, k, v):
    return attend(q, *((k[::-1], v[::-1]) if _turned(x) else (k, v)), x.sm_scale)


pq_decode_attention = attention(_one)
