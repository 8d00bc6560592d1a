"""Wrong: merge_states leaves out the last part (O66b)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "merge_drops_the_last_part"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

paged_decode = right.paged_decode


def merge_states(outs, lses):
    empty = np.full_like(lses, -np.inf)
    empty[:-1] = lses[:-1]
    return right.merge_states(outs, empty)
