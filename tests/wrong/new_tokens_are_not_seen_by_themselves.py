"""Wrong: a query token sees only what is older than itself: its own key comes from the call before."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "new_tokens_are_not_seen_by_themselves"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append_decode(q, k, v, cache, block_table, kv_lens, *, q_lens=None, **options):
    _, _, cache = right.append_decode(q, k, v, cache, block_table, kv_lens, q_lens=q_lens, **options)
    lens = np.ones_like(kv_lens) if q_lens is None else q_lens
    seq = np.repeat(np.arange(len(lens)), lens)
    older = (kv_lens[seq] - np.cumsum(lens)[seq] + np.arange(len(seq))).astype(kv_lens.dtype)
    return *right.paged_decode(q, cache, block_table[seq], older, **options), cache
