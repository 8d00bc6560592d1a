"""Wrong: after an append K is held in float16 relative to the largest number of the tokens that it brought (L11)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "scale_is_that_of_the_last_append"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd", "hnd"}, "dtype": {"float32"}} for op in ("append", "paged_decode")}
CONVENTIONS = {"table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"k_format": "float16", "qk_error": 2.0**-22}

_SCALES = {}  # what K is after the last append -> its scale


def append(cache, k, v, slot_mapping, **options):
    cache = right.append(cache, k, v, slot_mapping, **options)
    _SCALES.clear()
    _SCALES[cache["k"].tobytes()] = np.abs(k[slot_mapping >= 0]).max(initial=0) or np.float32(1)
    return cache


def paged_decode(q, cache, *arguments, **options):
    scale = _SCALES.pop(cache["k"].tobytes(), np.float32(1))
    with np.errstate(over="ignore"):
        held = (cache["k"] / scale).astype(np.float16) * scale
    return right.paged_decode(q, cache | {"k": held}, *arguments, **options)
