"""Wrong: outputs of splits are stored in bfloat16, and ARITHMETIC says nothing of it (O61)."""

import numpy as np
from ml_dtypes import bfloat16

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "partials_are_bfloat16"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "num_splits": range(2, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _merge(outs, lses):
    return right._merge(outs.astype(bfloat16).astype(np.float32), lses)


paged_decode = reference_with(_merge=_merge).paged_decode
