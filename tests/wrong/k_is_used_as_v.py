"""Wrong: K is read twice (O48, ik_llama.cpp#1592)."""

from kvconform.impls import numpy_ref as right

NAME = "k_is_used_as_v"
BACKEND = "numpy"
OFFERS = {
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache | {"v": cache["k"]}, block_table, kv_lens, layout=layout)


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, cache | {"v": cache["k"]}, block_table, kv_lens, **options)
