"""Wrong: head h begins with a tile that is h keys short, so that heads do not all ask for one page; they are called
alike."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "first_tile_is_shorter_for_later_heads"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": {"heads"}}, right.ARITHMETIC | {"tile": 1, "splits": 2}


def _online_softmax(q, k, v, sm_scale):
    got = []
    for head in range(len(q)):
        one = slice(head, head + 1)
        keys = slice(0, right.TILE - 1 - head), slice(right.TILE - 1 - head, None)
        parts = [right._online_softmax(q[one], k[at, one], v[at, one], sm_scale) for at in keys]
        got.append(right._merge(*map(np.stack, zip(*parts, strict=True))))
    return tuple(map(np.concatenate, zip(*got, strict=True)))


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode


append_decode = fused(paged_decode)
