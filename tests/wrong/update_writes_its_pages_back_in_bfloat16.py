"""Wrong: the page of a new token is read, changed and written back by way of bfloat16, behind the attention."""

import ml_dtypes
import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "update_writes_its_pages_back_in_bfloat16"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append_decode(q, k, v, cache, block_table, kv_lens, *, layout, **options):
    out, lse, cache = right.append_decode(q, k, v, cache, block_table, kv_lens, layout=layout, **options)
    for view in right._views(cache, layout):
        last = block_table[np.arange(len(kv_lens)), (kv_lens - 1) // view.shape[1]]
        view[last] = view[last].astype(ml_dtypes.bfloat16).astype(np.float32)
    return out, lse, cache
