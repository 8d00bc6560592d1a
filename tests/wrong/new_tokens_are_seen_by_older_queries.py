"""Wrong: every query token sees all keys of its sequence, those of newer tokens of the same call among them."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "new_tokens_are_seen_by_older_queries"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append_decode(q, k, v, cache, block_table, kv_lens, *, q_lens=None, **options):
    _, _, cache = right.append_decode(q, k, v, cache, block_table, kv_lens, q_lens=q_lens, **options)
    seq = np.repeat(np.arange(len(kv_lens)), 1 if q_lens is None else q_lens)
    return *right.paged_decode(q, cache, block_table[seq], kv_lens[seq], **options), cache
