"""Wrong: the maximum is left out where q is below 1 and no score above 8, as if q alone said how far they go (O34)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "small_q_needs_no_maximum"
BACKEND = "numpy"
CALM = 8.0  # nats
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"tile": 1, "max_lag": CALM}


def _online_softmax(q, k, v, sm_scale):
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    if not len(k) or np.abs(q).max() >= 1 or np.abs(score).max() >= CALM:
        return right._online_softmax(q, k, v, sm_scale)
    p = np.exp(score)
    return np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1)[..., None], np.log(p.sum(-1))


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
