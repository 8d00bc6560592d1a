"""Wrong: one running result goes through all splits, but each begins a tile of its own; splits are said not to
matter."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "tiles_begin_anew_in_each_split"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": {"splits"}}, right.ARITHMETIC | {"tile": 1}

_SPLITS = [1]


def _online_softmax(q, k, v, sm_scale):
    score = np.einsum("hgd,nhd->hgn", q, k) * np.float32(sm_scale)
    top = score.max(-1, initial=-np.inf)
    p = np.exp(score - np.where(np.isneginf(top), 0, top)[..., None])
    ends = [len(k) * i // _SPLITS[0] for i in range(_SPLITS[0] + 1)]
    total, out = np.float32(0), np.zeros_like(q)
    for tile in map(slice, ends[:-1], ends[1:]):
        total, out = total + p[..., tile].sum(-1), out + np.einsum("hgn,nhd->hgd", p[..., tile], v[tile])
    return (out / total[..., None], top + np.log(total)) if len(k) else (out, top)


def paged_decode(*arguments, num_splits, **options):
    _SPLITS[0] = num_splits
    return _wrong.paged_decode(*arguments, **options)


_wrong = reference_with(_online_softmax=_online_softmax)
