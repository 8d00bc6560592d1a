"""Wrong: gather keeps the number of a page in a signed integer of 16 bits."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "gather_keeps_pages_in_int16"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache, block_table.astype(np.int16), kv_lens, layout=layout)
