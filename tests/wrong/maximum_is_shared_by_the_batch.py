"""Wrong: one reference point for all sequences of a batch, where it lies less than 8 nats above a row's own maximum."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "maximum_is_shared_by_the_batch"
BACKEND = "numpy"
NEAR = 8.0  # nats
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS = {"dead": {"zero", "finite"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"max_lag": NEAR}

_TOPS = []


def _online_softmax(q, k, v, sm_scale):
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    own = score.max(-1, initial=-np.inf)
    _TOPS.append(own)
    if not len(k):
        return np.zeros_like(q), own
    shared = np.max(_TOPS, axis=0)
    top = np.where(shared <= own + NEAR, shared, own)
    p = np.exp(score - top[..., None])
    return np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1)[..., None], top + np.log(p.sum(-1))


def paged_decode(*arguments, **options):
    _TOPS.clear()
    _wrong.paged_decode(*arguments, **options)  # the maxima of all rows
    return _wrong.paged_decode(*arguments, **options)


_wrong = reference_with(_online_softmax=_online_softmax)
