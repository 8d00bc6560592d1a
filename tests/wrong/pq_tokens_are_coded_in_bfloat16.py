"""Wrong: tokens are narrowed to bfloat16 before they are encoded."""

import ml_dtypes

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_tokens_are_coded_in_bfloat16"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, **sizes):
    k, v = (side.astype(ml_dtypes.bfloat16).astype(side.dtype) for side in (k, v))
    return pq.append(cache, k, v, (k_codebooks, v_codebooks), slot_mapping, layout, dtype)
