"""Wrong: every other call that updates the cache sums in the opposite order."""

from kvconform.tests.wrong import order_varies_between_calls as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_sums_in_either_order"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "num_seqs": {1}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, attention.ARITHMETIC


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
