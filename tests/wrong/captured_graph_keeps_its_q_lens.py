"""Wrong: a graph captured for the same shapes and lengths is replayed, with the query tokens it was captured with."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "captured_graph_keeps_its_q_lens"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CAPTURED = {}


def paged_decode(q, cache, block_table, kv_lens, *, q_lens=None, **options):
    if q_lens is not None:
        captured = q.shape, q.dtype, cache["k"].shape, kv_lens.tobytes()
        q_lens = _CAPTURED.setdefault(captured, q_lens.copy())
    return right.paged_decode(q, cache, block_table, kv_lens, q_lens=q_lens, **options)


append_decode = fused(paged_decode)
