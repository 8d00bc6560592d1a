"""Null: every operation returns zeros of the right shapes."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "null_zeros"
BACKEND = "numpy"
OFFERS = {op: {**one} for op, one in right.OFFERS.items() if op not in ("page_manager", "pq_cache")}
for _offer in OFFERS.values():
    _offer.pop("into", None)
    _offer["dtype"] = _offer.get("dtype", {"uint8", "uint4"}) - {"float16", "float8_e5m2"}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _zeros(result):
    if isinstance(result, dict):
        return {name: np.zeros_like(array) for name, array in result.items()}
    if isinstance(result, tuple):
        return tuple(None if array is None else _zeros(array) for array in result)
    return np.zeros_like(result)


def _null(operation):
    return lambda *arguments, **options: _zeros(operation(*arguments, **options))


merge_kv, extract_k, extract_v = map(_null, (right.merge_kv, right.extract_k, right.extract_v))
append, gather, copy_pages = map(_null, (right.append, right.gather, right.copy_pages))
paged_decode, append_decode = map(_null, (right.paged_decode, right.append_decode))
merge_states = _null(right.merge_states)
pq_encode, pq_decode = map(_null, (right.pq_encode, right.pq_decode))
pq_append, pq_decode_attention = map(_null, (right.pq_append, right.pq_decode_attention))
