"""Wrong: the first updates of a shape are computed with tiles that are being timed."""

from kvconform.tests.wrong import tile_is_still_being_tuned as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_is_still_being_tuned"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"bshd", "bhsd"}, "dtype": {"float32"}, "num_seqs": {1}}}
CONVENTIONS, ARITHMETIC = attention.CONVENTIONS, attention.ARITHMETIC


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
