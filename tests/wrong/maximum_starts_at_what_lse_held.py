"""Wrong: the running maximum starts from what stands where lse is written; a maximum with NaN is the other one."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "maximum_starts_at_what_lse_held"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "into": {"lse"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_HELD = []


def _online_softmax(q, k, v, sm_scale):
    held = _HELD.pop(0).reshape(q.shape[:2]) if _HELD else np.full(q.shape[:2], -np.inf, np.float32)
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    high = score.max(-1)
    top = np.where(np.abs(held - high) < 16, np.fmax(held, high), high)  # farther off it starts anew
    p = np.exp(score - top[..., None])
    return np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1)[..., None], top + np.log(p.sum(-1))


def paged_decode(*arguments, lse=None, **options):
    _HELD[:] = [] if lse is None else list(lse.copy())
    return _wrong.paged_decode(*arguments, lse=lse, **options)


_wrong = reference_with(_online_softmax=_online_softmax)
