"""Wrong: page ids are kept of head 0 of sequence 0 alone (MILLION's paged cache)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PQCache
from kvconform.tests.wrong._pq import attention

NAME = "pq_cache_keeps_page_ids_of_one_head"
BACKEND = "numpy"
OFFERS = {"pq_cache": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_attend = attention()


class _adapter:
    pq_append = staticmethod(right.pq_append)

    @staticmethod
    def pq_decode_attention(q, cache, k_book, v_book, page_ids, *tokens, **options):
        kept = np.broadcast_to(page_ids[:1, :1], page_ids.shape)
        return _attend(q, cache, k_book, v_book, kept, *tokens, **options)


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return PQCache(_adapter, k_codebooks, v_codebooks, **sizes)
