"""Wrong: partial results of long sequences lie one after another, and are read at the sequence times its own number of
parts, which is right where all have as many."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "splits_of_the_second_sequence_begin_by_its_own_number"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, **options)
    parts = -(-kv_lens // 256)
    starts = np.concatenate([[0], np.cumsum(parts)])
    for seq in np.flatnonzero(parts > 1):
        if seq * parts[seq] != starts[seq] and seq:  # what lies there is of the sequence before
            out[seq], lse[seq] = out[seq - 1], lse[seq - 1]
    return out, lse
