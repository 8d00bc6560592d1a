"""Wrong: parts are weighted by exp(lse) as it is, which overflows beyond 88 (O71b)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "merge_without_maximum"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _merge(outs, lses):
    weight = np.exp(lses)
    total = weight.sum(0)
    kept = np.where(weight[..., None] > 0, outs, np.float32(0))
    return (weight[..., None] * kept).sum(0) / np.where(total > 0, total, 1)[..., None], np.log(total)


_wrong = reference_with(_merge=_merge)
paged_decode, merge_states = _wrong.paged_decode, _wrong.merge_states
