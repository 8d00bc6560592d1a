"""Right: exp is a short polynomial that errs by up to 9e-5, as is declared, and by nothing at 0."""

import numpy as np

from kvconform.impls import numpy_ref
from kvconform.tests.wrong._reference import reference_with

NAME = "exp_errs_but_not_at_0"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "split_x"}, "dtype": {"float32", "bfloat16"}, "num_splits": {1, 2}}}
CONVENTIONS = numpy_ref.CONVENTIONS
ARITHMETIC = {**numpy_ref.ARITHMETIC, "exp_error": 9e-5}


class _Numpy:
    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def exp(x):
        return np.exp(x) * np.where(x == 0, np.float32(1), np.float32(1 + 8.8e-5))


paged_decode = reference_with(np=_Numpy()).paged_decode
