"""Wrong: where a page begins is counted in bytes, in 32 bits without a sign: right in caches of a byte an element."""

from kvconform.impls import numpy_ref as right

NAME = "decode_counts_bytes_in_uint32"
BACKEND = "numpy"
_DTYPES = {"float8_e4m3fn", "bfloat16", "float32"}
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": _DTYPES, "pool": {"dense", "sparse"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    pages = max(1, 2**32 // cache["k"][0].nbytes)
    return right.paged_decode(q, cache, block_table % pages, kv_lens, **options)
