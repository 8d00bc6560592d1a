"""Wrong: starts of sequences are a prefix sum over 256 threads."""

from kvconform.impls import numpy_ref as right

NAME = "gather_ends_with_the_256th_sequence"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32", "int8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def gather(cache, block_table, kv_lens, *, layout):
    k, v = right.gather(cache, block_table, kv_lens, layout=layout)
    end = int(kv_lens[:256].sum())
    k[end:], v[end:] = 0, 0
    return k, v
