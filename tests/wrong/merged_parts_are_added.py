"""Wrong: merge_states adds outputs without weights (O71c)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "merged_parts_are_added"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

paged_decode = right.paged_decode


def merge_states(outs, lses):
    added = np.where(np.isneginf(lses)[..., None], 0, outs.astype(np.float32)).sum(0)
    return added.astype(outs.dtype), right.merge_states(outs, lses)[1]
