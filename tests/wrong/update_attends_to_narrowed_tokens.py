"""Wrong: new tokens are attended from a buffer of bfloat16, while the cache gets all of their bits."""

import ml_dtypes

from kvconform.impls import numpy_ref as right

NAME = "update_attends_to_narrowed_tokens"
BACKEND = "numpy"
_OPS = ("append_decode", "append", "paged_decode")
OFFERS = {op: {"layout": {"nhd", "hnd"}, "dtype": {"float32"}} for op in _OPS}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

append, paged_decode = right.append, right.paged_decode


def append_decode(q, k, v, *arguments, **options):
    narrow = [rows.astype(ml_dtypes.bfloat16).astype(rows.dtype) for rows in (k, v)]
    out, lse, _ = right.append_decode(q, *narrow, *arguments, **options)
    return out, lse, right.append_decode(q, k, v, *arguments, **options)[2]
