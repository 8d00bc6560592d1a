"""Wrong: the loop over keys ends one key early (O26, `<` for `<=`)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "last_token_is_dropped"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {
        "layout": {"nhd", "hnd"},
        "dtype": {"float32", "bfloat16"},
        "num_splits": range(1, 8),
        "kv_lens": {"max": 4096},
        "spare_pages": range(4),
    }
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, cache, block_table, np.maximum(kv_lens - 1, 0), **options)
