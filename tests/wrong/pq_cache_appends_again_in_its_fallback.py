"""Wrong: after the paged path has appended a token that fills the residual, its fallback appends it again."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache

NAME = "pq_cache_appends_again_in_its_fallback"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class _Cache(PQCache):
    def append(self, layer, k, v):
        before = self.num_coded(layer)
        super().append(layer, k, v)
        if self.num_coded(layer) > before:
            super().append(layer, k[:, -1:], v[:, -1:])


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return _Cache(right, k_codebooks, v_codebooks, **sizes)
