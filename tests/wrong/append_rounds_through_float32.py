"""Wrong: tokens pass through float32 arithmetic, where -0.0 + 0 is 0.0 and signalling NaN turn quiet (U11)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "append_rounds_through_float32"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
}

gather = right.gather


def append(cache, k, v, slot_mapping, *, layout):
    k, v = ((rows.astype(np.float32) + np.float32(0)).astype(rows.dtype) for rows in (k, v))
    return right.append(cache, k, v, slot_mapping, layout=layout)
