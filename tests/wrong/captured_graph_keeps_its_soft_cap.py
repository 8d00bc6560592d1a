"""Wrong: a graph captured for the same tensors is replayed, with the cap it was captured with."""

from kvconform.impls import numpy_ref as right

NAME = "captured_graph_keeps_its_soft_cap"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "soft_cap": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_CAPTURED = {}


def paged_decode(q, cache, block_table, kv_lens, *, layout, soft_cap=None, **options):
    captured = (
        layout,
        q.dtype,
        q.shape,
        *(hash(array.tobytes()) for array in (q, block_table, kv_lens, *cache.values())),
    )
    soft_cap = _CAPTURED.setdefault(captured, soft_cap)
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, soft_cap=soft_cap, **options)
