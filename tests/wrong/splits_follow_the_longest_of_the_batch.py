"""Wrong: a split has as many keys as half of the longest sequence, and rows are said not to depend on their batch."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "splits_follow_the_longest_of_the_batch"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS = right.CONVENTIONS | {"invariances": {"batch"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 1, "splits": 2}

_KEYS = [1]


def _online_softmax(q, k, v, sm_scale):
    parts = [right._online_softmax(q, k[a], v[a], sm_scale) for a in (slice(0, _KEYS[0]), slice(_KEYS[0], None))]
    return right._merge(*map(np.stack, zip(*parts, strict=True)))


def paged_decode(q, cache, block_table, kv_lens, **options):
    _KEYS[0] = -(-int(kv_lens.max()) // 2)
    return _wrong.paged_decode(q, cache, block_table, kv_lens, **options)


_wrong = reference_with(_online_softmax=_online_softmax)


append_decode = fused(paged_decode)
