"""Right: partial results of splits are kept in bfloat16, and their lse in float16, as it declares."""

import ml_dtypes
import numpy as np

from kvconform.impls import numpy_ref
from kvconform.tests.wrong._reference import reference_with

NAME = "keeps_partial_results_in_few_bits"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {
        "layout": {"nhd"},
        "dtype": {"float32", "bfloat16"},
        "num_splits": {"min": 1},
        "window": {"min": 0},
    },
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS = numpy_ref.CONVENTIONS
ARITHMETIC = numpy_ref.ARITHMETIC | {"partial_format": "bfloat16", "partial_lse_format": "float16"}


def _merge(outs, lses):
    with np.errstate(all="ignore"):  # of what float16 cannot hold no bound is known
        kept = (outs.astype(ml_dtypes.bfloat16), lses.astype(np.float16))
    return numpy_ref._merge(*(array.astype(np.float32) for array in kept))


paged_decode, merge_states = reference_with(_merge=_merge).paged_decode, numpy_ref.merge_states
