"""Wrong: a graph captured for the same tensors is replayed, with the scale it was captured with."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "captured_graph_keeps_its_sm_scale"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CAPTURED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, **options):
    captured = (
        layout,
        q.dtype,
        q.shape,
        *(hash(array.tobytes()) for array in (q, block_table, kv_lens, *cache.values())),
    )
    sm_scale = _CAPTURED.setdefault(captured, sm_scale)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale, **options)


append_decode = fused(paged_decode)
