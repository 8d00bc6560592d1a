"""Wrong: what is left is moved to the front of the residual by a copy in place, forwards from its end."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache

NAME = "pq_cache_shifts_its_residual_onto_itself"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class _Cache(PQCache):
    def append(self, layer, k, v):
        before = self.num_coded(layer)
        super().append(layer, k, v)
        moved = self.num_coded(layer) - before
        if moved:
            self._left[layer] = tuple(np.repeat(side[:, :1], side.shape[1], 1) for side in self._left[layer])


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return _Cache(right, k_codebooks, v_codebooks, **sizes)
