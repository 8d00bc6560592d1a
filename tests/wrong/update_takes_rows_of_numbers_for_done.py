"""Wrong: an update does not compute rows of out again that hold no NaN."""

from kvconform.tests.wrong import rows_that_hold_numbers_are_taken_for_done as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_takes_rows_of_numbers_for_done"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "into": {"out"}}}
CONVENTIONS, ARITHMETIC = attention.CONVENTIONS, attention.ARITHMETIC


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
