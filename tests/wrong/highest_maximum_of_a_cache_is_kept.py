"""Wrong: the highest maximum ever met over a cache stays its reference point, where it is less than 8 nats too high."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "highest_maximum_of_a_cache_is_kept"
BACKEND = "numpy"
NEAR = 8.0  # nats
OFFERS = both({"layout": {"bshd", "bhsd"}, "dtype": {"float32"}, "sm_scale": {1.0}})
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC | {"max_lag": NEAR}

_KEPT = {}


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    _LAST["seq"] += 1
    own, seq = score.max(-1), (q.shape, _LAST["seq"], k[0].tobytes())  # known by its place and its first key
    kept = _KEPT[seq] = np.maximum(own, _KEPT.get(seq, own))
    top = np.where(kept <= own + NEAR, kept, own)
    p = np.exp(score - top[..., None])
    return np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1)[..., None], top + np.log(p.sum(-1))


def paged_decode(q, cache, *arguments, **options):
    if _LAST.pop("k", None) != (now := cache["k"].tobytes()):
        _KEPT.clear()
    _LAST.update(k=now, seq=0)
    return _wrong.paged_decode(q, cache, *arguments, **options)


_LAST = {}
_wrong = reference_with(_online_softmax=_online_softmax)


append_decode = fused(paged_decode)
