"""Null: every operation returns what it should have returned the last time, zeros where shapes are new."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "null_previous"
BACKEND = "numpy"
OFFERS = {op: {**one} for op, one in right.OFFERS.items() if op not in ("page_manager", "pq_cache")}
for _offer in OFFERS.values():
    _offer.pop("into", None)
    _offer["dtype"] = _offer.get("dtype", {"uint8", "uint4"}) - {"float16", "float8_e5m2"}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}, right.ARITHMETIC


def _late(operation):
    kept = {}

    def late(name, array):
        if isinstance(array, dict):
            return {name: late(name, field) for name, field in array.items()}
        key = name, array.shape, array.dtype
        before, kept[key] = kept.get(key, np.zeros_like(array)), array
        return before

    def null(*arguments, **options):
        result = operation(*arguments, **options)
        if isinstance(result, dict):
            return {name: late(name, array) for name, array in result.items()}
        if isinstance(result, tuple):
            return tuple(None if array is None else late(i, array) for i, array in enumerate(result))
        return late(0, result)

    return null


merge_kv, extract_k, extract_v = map(_late, (right.merge_kv, right.extract_k, right.extract_v))
append, gather, copy_pages = map(_late, (right.append, right.gather, right.copy_pages))
paged_decode, append_decode = map(_late, (right.paged_decode, right.append_decode))
merge_states = _late(right.merge_states)
pq_encode, pq_decode = map(_late, (right.pq_encode, right.pq_decode))
pq_append, pq_decode_attention = map(_late, (right.pq_append, right.pq_decode_attention))
