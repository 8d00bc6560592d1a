"""Wrong: new tokens are attended where they come from, all of the batch in one product; the weight of others' is 0."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "new_tokens_of_all_are_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS = {"dead": {"zero", "finite", "nan"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"splits": 2}


def append_decode(q, k, v, cache, block_table, kv_lens, *, layout, sm_scale, q_lens=None):
    _, _, updated = right.append_decode(q, k, v, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    old = right.paged_decode(q, cache, block_table, kv_lens - 1, layout=layout, sm_scale=sm_scale)
    group = q.shape[1] // k.shape[1]
    keys, values = (np.repeat(rows, group, 1) for rows in (k, v))
    score = np.einsum("shd,shd->sh", q, keys) * np.float32(sm_scale)
    weight = np.eye(len(q), dtype=np.float32)  # of one new token, whose softmax is 1
    new = np.einsum("st,thd->shd", weight, values)
    out, lse = right._merge(np.stack([old[0], new]), np.stack([old[1], score]))
    return out.astype(q.dtype), lse, updated
