"""Wrong: kv_lens are rounded up to whole pages (O22, flashinfer#3716)."""

from kvconform.impls import numpy_ref as right

NAME = "last_page_is_full"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    size = right._views(cache, layout)[0].shape[1]
    return right.paged_decode(q, cache, block_table, -(-kv_lens // size) * size, layout=layout, sm_scale=sm_scale)
