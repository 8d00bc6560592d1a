"""Wrong: after the tokens are written, the running maximum starts from what stands where lse goes."""

from kvconform.tests.wrong import maximum_starts_at_what_lse_held as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_starts_at_what_lse_held"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "into": {"lse"}}}
CONVENTIONS, ARITHMETIC = attention.CONVENTIONS, attention.ARITHMETIC


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
