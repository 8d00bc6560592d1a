"""Wrong: beyond 1024 keys the kernel for one query token takes all of a sequence, each of which sees every key."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "long_drafts_are_not_causal"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, q_lens=None, **options):
    got = right.paged_decode(q, cache, block_table, kv_lens, q_lens=q_lens, **options)
    for seq in np.flatnonzero(kv_lens > 1024) if q_lens is not None else ():
        rows = slice(sum(q_lens[:seq]), sum(q_lens[: seq + 1]))
        table, lens = (array[[seq] * q_lens[seq]] for array in (block_table, kv_lens))
        for mine, all_keys in zip(got, right.paged_decode(q[rows], cache, table, lens, **options), strict=True):
            mine[rows] = all_keys
    return got
