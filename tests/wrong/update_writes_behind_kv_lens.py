"""Wrong: attention counts the newest tokens in kv_lens, and the write does not: they go behind the last one."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "update_writes_behind_kv_lens"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append_decode(q, k, v, cache, block_table, kv_lens, *, layout, q_lens=None, **options):
    told = {"layout": layout, "q_lens": q_lens}
    out, lse, _ = right.append_decode(q, k, v, cache, block_table, kv_lens, **told, **options)
    size, lens = right._views(cache, layout)[0].shape[1], np.ones_like(kv_lens) if q_lens is None else q_lens
    seq = np.repeat(np.arange(len(lens)), lens)
    position = kv_lens[seq] + np.arange(len(seq)) - (np.cumsum(lens) - lens)[seq]
    column = position // size
    page = block_table[seq, np.minimum(column, block_table.shape[1] - 1)].astype(np.int64)
    slots = np.where(column < block_table.shape[1], page * size + position % size, -1)
    return out, lse, right.append(cache, k, v, slots, layout=layout)
