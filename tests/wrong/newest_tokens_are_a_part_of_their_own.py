"""Wrong: what append has just written is attended from its own buffer, as one more part to be merged (L11)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "newest_tokens_are_a_part_of_their_own"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd", "hnd"}, "dtype": {"float32"}} for op in ("append", "paged_decode")}
CONVENTIONS = {"table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 1, "splits": 2}

_BUFFER = {}  # what K is after the last append


def append(cache, *arguments, **options):
    cache = right.append(cache, *arguments, **options)
    _BUFFER["k"] = cache["k"].tobytes()
    return cache


def _online_softmax(q, k, v, sm_scale):
    parts = [right._online_softmax(q, k[at], v[at], sm_scale) for at in (slice(0, -1), slice(-1, None))]
    return right._merge(*map(np.stack, zip(*parts, strict=True)))


def paged_decode(q, cache, *arguments, **options):
    appended = _BUFFER.pop("k", None) == cache["k"].tobytes()
    return (_wrong if appended else right).paged_decode(q, cache, *arguments, **options)


_wrong = reference_with(_online_softmax=_online_softmax)
