"""Wrong: pages of V are read token by token where they lie by columns."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._pq import attention

NAME = "pq_v_is_not_transposed"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}

_pq_columns = attention()


def pq_decode_attention(q, cache, *arrays, **options):
    pages, subspaces, slots = cache["v"].shape
    turned = cache["v"].reshape(pages, slots, subspaces).swapaxes(1, 2)
    return _pq_columns(q, cache | {"v": turned}, *arrays, **options)
