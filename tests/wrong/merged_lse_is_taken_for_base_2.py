"""Wrong: merge_states weights parts by 2 ** lse (O59, sglang#40903)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "merged_lse_is_taken_for_base_2"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

paged_decode = right.paged_decode


def merge_states(outs, lses):
    return right.merge_states(outs, lses * np.float32(np.log(2)))[0], right.merge_states(outs, lses)[1]
