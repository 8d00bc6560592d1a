"""Wrong: the first V of every page that the table names is fetched ahead; past the end of a row its weight is 0."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "first_key_of_padding_is_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "strides": {"contiguous", "outer", "all"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"table_padding": {"valid"}}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, **options)
    for seq, n in enumerate(kv_lens):
        beyond = block_table[seq, -(-n // cache["v"].shape[1]) :]
        leak = (np.float32(0) * cache["v"][beyond, 0]).sum(0)
        out[seq] += np.repeat(leak, q.shape[1] // len(leak), 0)
    return out, lse
