"""Wrong: page numbers pass through float32, which holds integers of 24 bits."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "gather_pages_pass_through_float32"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}, "page_size": {1, 3}}}


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache, block_table.astype(np.float32).astype(np.int64), kv_lens, layout=layout)
