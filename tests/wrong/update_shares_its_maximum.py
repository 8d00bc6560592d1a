"""Wrong: one reference point for all sequences whose cache a call updates, where it lies near."""

from kvconform.tests.wrong import maximum_is_shared_by_the_batch as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_shares_its_maximum"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = attention.CONVENTIONS, attention.ARITHMETIC


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
