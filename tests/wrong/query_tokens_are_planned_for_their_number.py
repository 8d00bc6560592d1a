"""Wrong: whose each query row is, is planned once for so many sequences and rows, and kept for all calls of as many."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "query_tokens_are_planned_for_their_number"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC
PLANS = {}


def paged_decode(q, cache, block_table, kv_lens, *, q_lens=None, **options):
    if q_lens is not None:
        q_lens = PLANS.setdefault((len(q_lens), len(q)), q_lens.copy())
    return right.paged_decode(q, cache, block_table, kv_lens, q_lens=q_lens, **options)


append_decode = fused(paged_decode)
