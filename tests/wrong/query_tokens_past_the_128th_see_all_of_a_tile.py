"""Wrong: of the second tile of query tokens the diagonal is forgotten."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "query_tokens_past_the_128th_see_all_of_a_tile"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, q_lens=None):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale, q_lens=q_lens)
    for seq, end in enumerate(np.cumsum([] if q_lens is None else q_lens)):
        late = slice(end - q_lens[seq] + 128, end)
        rows = len(range(*late.indices(end)))
        if rows:
            lens, table = np.repeat(kv_lens[seq], rows), np.repeat(block_table[seq : seq + 1], rows, 0)
            out[late], lse[late] = right.paged_decode(q[late], cache, table, lens, layout=layout, sm_scale=sm_scale)
    return out, lse
