"""Wrong: gather keeps the number of a page in an unsigned integer of 16 bits."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "gather_keeps_pages_in_uint16"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache, block_table.astype(np.uint16), kv_lens, layout=layout)
