"""Wrong: where a page begins is counted in bytes, in 32 bits without a sign: right in caches of a byte an element."""

from kvconform.impls import numpy_ref as right

NAME = "gather_counts_bytes_in_uint32"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"int8", "float16"}, "pool": {"dense", "sparse"}}}
CONVENTIONS = right.CONVENTIONS


def gather(cache, block_table, kv_lens, *, layout):
    pages = max(1, 2**32 // cache["k"][0].nbytes)
    return right.gather(cache, block_table % pages, kv_lens, layout=layout)
