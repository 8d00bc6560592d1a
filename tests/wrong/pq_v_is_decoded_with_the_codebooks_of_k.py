"""Wrong: V is decoded with the codebooks of K."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_v_is_decoded_with_the_codebooks_of_k"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_right = attention()


def pq_decode_attention(q, cache, k_codebooks, v_codebooks, *arrays, **options):
    return _right(q, cache, k_codebooks, k_codebooks, *arrays, **options)
