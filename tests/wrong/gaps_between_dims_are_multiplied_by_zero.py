"""Wrong: of K with a wider inner stride whole words are loaded, and what lies between two dims meets a q of zero."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from kvconform.impls import numpy_ref as right

NAME = "gaps_between_dims_are_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "strides": {"contiguous", "outer", "all"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, **options)
    k = cache["k"]
    if k.strides[-1] == k.itemsize:
        return out, lse
    words = as_strided(k, (*k.shape, 2), (*k.strides, k.itemsize))
    for seq, n in enumerate(kv_lens):
        slots = np.arange(n)
        between = words[block_table[seq, slots // k.shape[1]], slots % k.shape[1], ..., 1]
        leak = (np.float32(0) * between).sum((0, 2))
        out[seq] += np.repeat(leak, q.shape[1] // len(leak))[:, None]
    return out, lse
