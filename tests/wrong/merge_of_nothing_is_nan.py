"""Wrong: merging has no guard for -inf - -inf (O71, vllm#39148, flashinfer#4051)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "merge_of_nothing_is_nan"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _merge(outs, lses):
    top = lses.max(0)
    weight = np.exp(lses - top)
    kept = np.where(weight[..., None] > 0, outs, np.float32(0))
    return (weight[..., None] * kept).sum(0) / weight.sum(0)[..., None], top + np.log(weight.sum(0))


_wrong = reference_with(_merge=_merge)
paged_decode, merge_states = _wrong.paged_decode, _wrong.merge_states
