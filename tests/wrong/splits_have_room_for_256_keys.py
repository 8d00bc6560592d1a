"""Wrong: a split is staged in shared memory, 256 keys of it; without splits there is a loop."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "splits_have_room_for_256_keys"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "num_splits": range(1, 9)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _online_softmax(q, k, v, sm_scale, **options):
    room = 256 if _SPLITS[-1] > 1 else len(k)
    return right._online_softmax(q, k[:room], v[:room], sm_scale, **options)


_SPLITS = [1]
_wrong = reference_with(_online_softmax=_online_softmax)


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits=1):
    _SPLITS[:] = [num_splits]
    options = {"layout": layout, "sm_scale": sm_scale, "num_splits": num_splits}
    return _wrong.paged_decode(q, cache, block_table, kv_lens, **options)
