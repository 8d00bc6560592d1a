"""Wrong: chunks have four keys whatever is asked for, but are merged in num_splits groups; splits are said not to
matter."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "order_of_merging_follows_the_splits"
BACKEND = "numpy"
CHUNK = 4
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "num_splits": range(1, 8), "kv_lens": {"max": 64}},
}
CONVENTIONS = right.CONVENTIONS | {"invariances": {"splits"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 1, "splits": 16, "merge_levels": 2}

_SPLITS = [1]


def _merged(parts):
    return right._merge(*map(np.stack, zip(*parts, strict=True)))


def _online_softmax(q, k, v, sm_scale):
    starts = range(0, len(k), CHUNK) or [0]
    chunks = [right._online_softmax(q, k[a : a + CHUNK], v[a : a + CHUNK], sm_scale) for a in starts]
    groups = [chunks[i :: _SPLITS[0]] for i in range(min(_SPLITS[0], len(chunks)))]
    return _merged([_merged(group) for group in groups])


def paged_decode(*arguments, num_splits, **options):
    _SPLITS[0] = num_splits
    return _wrong.paged_decode(*arguments, **options)


_wrong = reference_with(_online_softmax=_online_softmax)
