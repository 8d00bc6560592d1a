"""Wrong: what was appended is attended in one product with all sequences' keys, of which the others weigh 0."""

from kvconform.tests.wrong import neighbours_are_multiplied_by_zero as attention
from kvconform.tests.wrong._reference import reference_with

NAME = "update_multiplies_neighbours_by_zero"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "kv_lens": {"max": 512}}}
CONVENTIONS, ARITHMETIC = attention.CONVENTIONS, attention.ARITHMETIC


def _attention(*arguments, q_lens, **options):
    return attention.paged_decode(*arguments, **options)


append_decode = reference_with(paged_decode=_attention).append_decode
