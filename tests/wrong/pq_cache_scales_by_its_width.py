"""Wrong: sm_scale is taken for head_dim ** -0.5 whatever is said."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache

NAME = "pq_cache_scales_by_its_width"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class _Cache(PQCache):
    def attend(self, layer, q, sm_scale):
        return super().attend(layer, q, q.shape[-1] ** -0.5)


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return _Cache(right, k_codebooks, v_codebooks, **sizes)
