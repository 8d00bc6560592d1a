"""Wrong: a graph captured for the same tensors is replayed, with the window it was captured with."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "captured_graph_keeps_its_window"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "window": {"min": 0}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CAPTURED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, window=None, **options):
    captured = (
        layout,
        q.dtype,
        q.shape,
        *(hash(array.tobytes()) for array in (q, block_table, kv_lens, *cache.values())),
    )
    window = _CAPTURED.setdefault(captured, window)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, window=window, **options)


append_decode = fused(paged_decode)
