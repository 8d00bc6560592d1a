"""Wrong: the newest code is left out while no token is uncoded, whose slot is taken for the one to write next."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache

NAME = "pq_cache_loses_its_newest_code"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class _Cache(PQCache):
    def attend(self, layer, q, sm_scale):
        left, coded = self._left[layer], self._coded[layer]
        if coded > 1 and not left[0].shape[1]:
            self._coded[layer] -= 1
        try:
            return super().attend(layer, q, sm_scale)
        finally:
            self._left[layer], self._coded[layer] = left, coded


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return _Cache(right, k_codebooks, v_codebooks, **sizes)
