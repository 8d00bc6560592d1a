"""Wrong: attention reads the cache as it was given, where the newest tokens are not yet."""

from kvconform.impls import numpy_ref as right

NAME = "update_attends_before_it_appends"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero", "finite"}}, right.ARITHMETIC


def append_decode(q, k, v, cache, block_table, kv_lens, **options):
    _, _, updated = right.append_decode(q, k, v, cache, block_table, kv_lens, **options)
    return *right.paged_decode(q, cache, block_table, kv_lens, **options), updated
