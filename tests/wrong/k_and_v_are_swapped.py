"""Wrong: K is taken for V and V for K (O48b)."""

from kvconform.impls import numpy_ref as right

NAME = "k_and_v_are_swapped"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append(cache, k, v, slot_mapping, *, layout):
    return right.append(cache, v, k, slot_mapping, layout=layout)


def gather(*arguments, layout):
    return right.gather(*arguments, layout=layout)[::-1]


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, {"k": cache["v"], "v": cache["k"]}, block_table, kv_lens, **options)
