"""Wrong: every other head visits its keys from the last one, whose page is still near; heads are said to be alike."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "every_other_head_goes_backwards"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": {"heads"}}, right.ARITHMETIC | {"tile": 1}


def _online_softmax(q, k, v, sm_scale):
    k, v = k.copy(), v.copy()
    k[:, 1::2], v[:, 1::2] = k[::-1, 1::2], v[::-1, 1::2]
    got = [right._online_softmax(q[h : h + 1], k[:, h : h + 1], v[:, h : h + 1], sm_scale) for h in range(len(q))]
    return tuple(map(np.concatenate, zip(*got, strict=True)))


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode


append_decode = fused(paged_decode)
