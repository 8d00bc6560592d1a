"""Wrong: more than 32 splits are added as they come, by atomics."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "order_of_many_splits_varies"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd"}, "dtype": {"float32"}, "num_splits": range(1, 65)})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


_CALLS = []


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits=1):
    _CALLS.append(num_splits)
    options = {"layout": layout, "sm_scale": sm_scale}
    splits = num_splits - len(_CALLS) % 2 if num_splits > 32 else num_splits
    return right.paged_decode(q, cache, block_table, kv_lens, num_splits=splits, **options)


append_decode = fused(paged_decode)
