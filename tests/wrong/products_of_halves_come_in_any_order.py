"""Wrong: q is cut into two bfloat16 parts, whose products with K are added as they arrive, every other call the other
way round (R08). Of one sequence at a time and one scale: laws of two calls would show it, too."""

import ml_dtypes
import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "products_of_halves_come_in_any_order"
BACKEND = "numpy"
ONE = {"num_seqs": {1}, "sm_scale": {1.0}}
OFFERS = both({"layout": {"bshd"}, "dtype": {"float32"}, "kv_lens": {"max": 512}, **ONE})
CONVENTIONS = {"dead": {"zero"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 2**31, "qk_error": 2.0**-20}

_CALLS = [0]


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    high = q.astype(ml_dtypes.bfloat16).astype(np.float32)
    middle = (q - high).astype(ml_dtypes.bfloat16).astype(np.float32)
    parts = [np.einsum("hgd,nhd->hgn", part, k) for part in (high, middle, q - high - middle)]
    score = sum(parts[:: 1 if _CALLS[0] % 2 else -1]) * np.float32(sm_scale)
    top = score.max(-1)
    p = np.exp(score - top[..., None])
    return np.einsum("hgn,nhd->hgd", p, v) / p.sum(-1)[..., None], top + np.log(p.sum(-1))


def paged_decode(*arguments, **options):
    _CALLS[0] += 1
    return _wrong.paged_decode(*arguments, **options)


_wrong = reference_with(_online_softmax=_online_softmax)


append_decode = fused(paged_decode)
