"""Wrong: several query tokens are masked by a triangle at the first keys, as torch's is_causal has it (O20)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "query_tokens_stand_at_the_first_keys_unsaid"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, q_lens=None, **options):
    if q_lens is None:
        return right.paged_decode(q, cache, block_table, kv_lens, **options)
    seq = np.repeat(np.arange(len(kv_lens)), q_lens)
    row = np.arange(len(seq)) - np.repeat(np.cumsum(q_lens) - q_lens, q_lens)
    lens = np.minimum(kv_lens[seq], row + 1).astype(kv_lens.dtype)
    return right.paged_decode(q, cache, block_table[seq], lens, **options)
