"""Wrong: exp errs by 9e-5, as it declares, but at 0 too: each tile rescales by what is not 1."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "exp_of_0_is_not_1"
BACKEND = "numpy"
OFFERS = {
    op: {"layout": {"nhd", "split_x"}, "dtype": {"float32", "bfloat16"}, "num_splits": {1, 2}}
    for op in ("paged_decode", "append_decode")
}
CONVENTIONS = right.CONVENTIONS
ARITHMETIC = {**right.ARITHMETIC, "exp_error": 9e-5}


class _Numpy:
    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def exp(x):
        return np.exp(x) * np.float32(1 + 8.8e-5)


_errs = reference_with(np=_Numpy())
paged_decode, append_decode = _errs.paged_decode, _errs.append_decode
