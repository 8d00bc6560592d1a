"""Wrong: the part in codes and the part that is not are averaged without weights."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_partials_are_averaged"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def _one(x, q, k, v):
    coded, left = ((k[part], v[part]) for part in (slice(x.kv_lens[x.seq]), slice(x.kv_lens[x.seq], None)))
    lse = attend(q, k, v, x.sm_scale)[1]
    parts = [attend(q, *part, x.sm_scale)[0] for part in (coded, left) if len(part[0])]
    return (sum(parts) / max(1, len(parts)) if parts else np.zeros_like(q)), lse


pq_decode_attention = attention(_one)
