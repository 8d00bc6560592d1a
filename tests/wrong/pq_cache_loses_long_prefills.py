"""Wrong: of a prefill of more than eight tokens the first eight are appended."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache

NAME = "pq_cache_loses_long_prefills"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class _Cache(PQCache):
    def append(self, layer, k, v):
        first = k.shape[1] if k.shape[1] <= 8 else 8
        super().append(layer, k[:, :first], v[:, :first])


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return _Cache(right, k_codebooks, v_codebooks, **sizes)
