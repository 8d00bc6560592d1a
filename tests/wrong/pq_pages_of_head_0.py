"""Wrong: page ids are kept of head 0 alone (MILLION's paged cache)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_pages_of_head_0"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(q, cache, k_codebooks, v_codebooks, page_ids, *arrays, **options):
    page_ids = np.repeat(page_ids[:, :1], page_ids.shape[1], 1)
    return _right(q, cache, k_codebooks, v_codebooks, page_ids, *arrays, **options)
