"""Wrong: slot -1 is clamped to slot 0 (O84)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "skipped_tokens_go_to_the_first_slot"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def append(cache, k, v, slot_mapping, *, layout):
    return right.append(cache, k, v, np.maximum(slot_mapping, 0), layout=layout)
