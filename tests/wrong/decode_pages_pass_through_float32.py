"""Wrong: page numbers pass through float32, which holds integers of 24 bits."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "decode_pages_pass_through_float32"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {
        "layout": {"nhd"},
        "dtype": {"float32"},
        "pool": {"dense", "sparse"},
        "page_size": {1, 8, 16},
        "head_dim": {8, 16, 64},
        "num_kv_heads": {1, 2},
        "kv_lens": range(129),
    }
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    return right.paged_decode(
        q, cache, block_table.astype(np.float32).astype(np.int64), kv_lens, layout=layout, sm_scale=sm_scale
    )
