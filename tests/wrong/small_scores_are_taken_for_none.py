"""Wrong: where no score of a row is beyond 2**-9 the softmax is not computed, and every key weighs the same."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "small_scores_are_taken_for_none"
BACKEND = "numpy"
SMALL = 2.0**-9
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "head_dim": {16, 24, 40}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale):
    small = np.abs(np.einsum("hgd,nhd->hgn", q, k) * sm_scale).max(initial=0) < SMALL
    return right._online_softmax(np.zeros_like(q) if small else q, k, v, sm_scale)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
