"""Wrong: a repeated update is captured and replayed, with other tiles than it had at first."""

from kvconform.tests.wrong import repeated_call_is_a_graph_with_other_tiles as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_has_other_tiles_when_repeated"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"bshd", "bhsd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = attention.CONVENTIONS, attention.ARITHMETIC


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
