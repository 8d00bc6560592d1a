"""Wrong: a graph captured for the same tensors is replayed, with the sinks it was captured with."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "captured_graph_keeps_its_sinks"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "sinks": {"none", "drawn", "dominant"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CAPTURED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sinks=None, **options):
    captured = (
        layout,
        q.dtype,
        q.shape,
        *(hash(array.tobytes()) for array in (q, block_table, kv_lens, *cache.values())),
    )
    sinks = _CAPTURED.setdefault(captured, sinks)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sinks=sinks, **options)


append_decode = fused(paged_decode)
