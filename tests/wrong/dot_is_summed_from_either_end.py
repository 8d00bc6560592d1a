"""Wrong: dims of a dot are added from the first or from the last, every other call (R08)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "dot_is_summed_from_either_end"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"bshd", "bhsd"}, "dtype": {"float32", "float16", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC | {"tile": 2**31}

_CALLS = [0]


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    score = np.zeros((*q.shape[:2], len(k)), np.float32)
    for dim in range(q.shape[-1])[:: 1 if _CALLS[0] % 2 else -1]:
        score += q[..., dim, None] * k[:, :, dim].T[:, None]
    score *= np.float32(sm_scale)
    top = score.max(-1)
    p = np.exp(score - top[..., None])
    return np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1)[..., None], top + np.log(p.sum(-1))


def paged_decode(*arguments, **options):
    _CALLS[0] += 1
    return _wrong.paged_decode(*arguments, **options)


_wrong = reference_with(_online_softmax=_online_softmax)
