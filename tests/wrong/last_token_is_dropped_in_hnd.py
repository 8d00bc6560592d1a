"""Wrong: the path of one layout takes lengths for the positions of last tokens; that of the other is right."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "last_token_is_dropped_in_hnd"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": {"batch"}}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, **options):
    lens = np.maximum(kv_lens - 1, 0) if layout == "hnd" else kv_lens
    return right.paged_decode(q, cache, block_table, lens, layout=layout, **options)
