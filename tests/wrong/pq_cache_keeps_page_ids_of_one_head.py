"""Wrong: page ids are kept of head 0 of sequence 0 alone (MILLION's paged cache)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache

NAME = "pq_cache_keeps_page_ids_of_one_head"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class _Cache(PQCache):
    def attend(self, layer, q, sm_scale):
        kept, ids = self._ids[layer], self._ids[layer]
        self._ids[layer] = np.broadcast_to(ids[:1, :1], ids.shape)
        try:
            return super().attend(layer, q, sm_scale)
        finally:
            self._ids[layer] = kept


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return _Cache(right, k_codebooks, v_codebooks, **sizes)
