"""Wrong: heads are computed in pairs, the last one of an odd number alone and with other tiles; heads is declared."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "odd_head_out_has_other_tiles"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "num_kv_heads": {3, 5}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": {"heads"}}, right.ARITHMETIC | {"tile": 4}

_alone = reference_with(TILE=4)


def _online_softmax(q, k, v, sm_scale):
    paired = right._online_softmax(q[:-1], k[:, :-1], v[:, :-1], sm_scale)
    last = _alone._online_softmax(q[-1:], k[:, -1:], v[:, -1:], sm_scale)
    return tuple(map(np.concatenate, zip(paired, last, strict=True)))


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode


append_decode = fused(paged_decode)
