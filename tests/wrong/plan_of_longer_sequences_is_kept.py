"""Wrong: splits planned for a call are kept for later ones of its shape as long as no sequence is longer."""

from kvconform.tests.wrong import plan_of_shorter_sequences_is_kept as other

NAME = "plan_of_longer_sequences_is_kept"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"bshd", "bhsd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = other.CONVENTIONS, other.ARITHMETIC

_PLANS = {}


def paged_decode(q, cache, block_table, kv_lens, **options):
    shape = q.shape, cache["k"].shape, options["layout"]
    plan = _PLANS.get(shape)
    if plan is None or (plan < kv_lens).any():
        plan = _PLANS[shape] = kv_lens.copy()
    return other.planned(plan, q, cache, block_table, kv_lens, **options)
