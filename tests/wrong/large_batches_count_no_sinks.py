"""Wrong: batches of sixteen sequences and more go to a persistent kernel, which counts no sinks."""

from kvconform.impls import numpy_ref as right

NAME = "large_batches_count_no_sinks"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "sinks": {"none", "drawn", "dominant"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, sinks=None, **options):
    sinks = None if len(kv_lens) >= 16 else sinks
    return right.paged_decode(q, cache, block_table, kv_lens, sinks=sinks, **options)
