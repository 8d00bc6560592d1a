"""Wrong: the kernel for more than two parts keeps their lses in bfloat16, the one for two does not (O61)."""

import numpy as np
from ml_dtypes import bfloat16

from kvconform.impls import numpy_ref as right

NAME = "many_lses_are_read_as_bfloat16"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

paged_decode = right.paged_decode


def merge_states(outs, lses):
    if len(lses) > 2:
        lses = lses.astype(bfloat16).astype(np.float32)
    return right.merge_states(outs, lses)
