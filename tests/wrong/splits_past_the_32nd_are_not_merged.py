"""Wrong: one warp merges, a split each."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "splits_past_the_32nd_are_not_merged"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "num_splits": range(1, 65)},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits=1):
    cut = np.where(num_splits > 32, kv_lens * 32 // num_splits, kv_lens).astype(kv_lens.dtype)
    return right.paged_decode(q, cache, block_table, cut, layout=layout, sm_scale=sm_scale, num_splits=num_splits)
