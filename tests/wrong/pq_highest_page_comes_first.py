"""Wrong: keys of the page with the highest number are summed before all others."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_highest_page_comes_first"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, {}


def _page(x):
    return x.page_ids[x.seq, x.head][np.arange(x.kv_lens[x.seq]) // x.page_size]


def _one(x, q, k, v):
    order = np.argsort(_page(x) != _page(x).max(initial=0), kind="stable")
    order = np.concatenate([order, np.arange(len(order), len(k))])
    return attend(q, k[order], v[order], x.sm_scale)


pq_decode_attention = attention(_one)
