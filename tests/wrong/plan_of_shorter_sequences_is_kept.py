"""Wrong: splits planned for a call are kept for later ones of its shape as long as no sequence is shorter (O85)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "plan_of_shorter_sequences_is_kept"
BACKEND = "numpy"
OFFERS = both({"layout": {"bshd", "bhsd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC | {"tile": 1, "splits": 2}

_PLANS, _NEXT = {}, []


def _online_softmax(q, k, v, sm_scale):
    middle = _NEXT.pop(0)
    parts = [right._online_softmax(q, k[a], v[a], sm_scale) for a in (slice(0, middle), slice(middle, None))]
    return right._merge(*map(np.stack, zip(*parts, strict=True)))


def paged_decode(q, cache, block_table, kv_lens, **options):
    shape = q.shape, cache["k"].shape, options["layout"]
    plan = _PLANS.get(shape)
    if plan is None or (plan > kv_lens).any():
        plan = _PLANS[shape] = kv_lens.copy()
    return planned(plan, q, cache, block_table, kv_lens, **options)


def planned(plan, *arguments, **options):
    """Each sequence in two splits, the first one half as long as its plan says."""
    _NEXT[:] = [-(-int(n) // 2) for n in plan]
    return _wrong.paged_decode(*arguments, **options)


_wrong = reference_with(_online_softmax=_online_softmax)


append_decode = fused(paged_decode)
