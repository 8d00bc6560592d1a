"""Wrong: an update takes what its workspace begins with for the plan of this batch, if it looks like one."""

from kvconform.tests.wrong import plan_in_the_workspace_is_kept as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_keeps_the_plan_in_its_workspace"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "into": {"workspace"}}}
CONVENTIONS, ARITHMETIC = attention.CONVENTIONS, attention.ARITHMETIC
WORKSPACE = {"append_decode": lambda q, k, v, cache, block_table, kv_lens, **options: 4 * (1 + len(q))}


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
