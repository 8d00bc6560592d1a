"""Wrong: q is scaled in interleaved, scores are elsewhere; all layouts are declared the same bit for bit."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "sm_scale_meets_q_in_interleaved"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"interleaved", "nhd"}, "dtype": {"float32"}}}
CONVENTIONS = right.CONVENTIONS | {"invariances": {"layouts"}}
ARITHMETIC = right.ARITHMETIC | {"qk_error": 2.0**-23}


def paged_decode(*arguments, layout, **options):
    return (_wrong if layout == "interleaved" else right).paged_decode(*arguments, layout=layout, **options)


_wrong = reference_with(
    _online_softmax=lambda q, k, v, sm_scale: right._online_softmax(q * np.float32(sm_scale), k, v, 1.0)
)
