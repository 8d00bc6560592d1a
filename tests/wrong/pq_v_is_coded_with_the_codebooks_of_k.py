"""Wrong: V is encoded with the codebooks of K."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq

NAME = "pq_v_is_coded_with_the_codebooks_of_k"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, **sizes):
    return pq.append(cache, k, v, (k_codebooks, k_codebooks), slot_mapping, layout, dtype)
