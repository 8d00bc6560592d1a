"""Wrong: tokens that are not coded yet are kept in bfloat16."""

import ml_dtypes

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache

NAME = "pq_cache_keeps_its_residual_in_bfloat16"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class _Cache(PQCache):
    def append(self, layer, k, v):
        super().append(layer, k, v)
        narrow = (side.astype(ml_dtypes.bfloat16).astype(side.dtype) for side in self._left[layer])
        self._left[layer] = tuple(narrow)


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return _Cache(right, k_codebooks, v_codebooks, **sizes)
