"""Wrong: behind the newest token of a sequence its page is zeroed, after the attention."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "update_clears_the_rest_of_the_page"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append_decode(q, k, v, cache, block_table, kv_lens, *, layout, **options):
    out, lse, cache = right.append_decode(q, k, v, cache, block_table, kv_lens, layout=layout, **options)
    for view in right._views(cache, layout):
        last, slot = np.divmod(kv_lens - 1, view.shape[1])
        for seq, page in enumerate(block_table[np.arange(len(kv_lens)), last]):
            view[page, slot[seq] + 1 :] = 0
    return out, lse, cache
