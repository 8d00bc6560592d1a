"""Wrong: a call on the arguments of the last one is captured and replayed, with other tiles than it had at first.

On rows kept zeroed beyond their lengths, where no other law makes the same call twice in a row.
"""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "repeated_call_is_a_graph_with_other_tiles"
BACKEND = "numpy"
OFFERS = both({"layout": {"bshd", "bhsd"}, "dtype": {"float32"}, "sm_scale": {1.0}})
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC | {"tile": 4}

_captured = reference_with(TILE=4)
_LAST = [None]


def paged_decode(q, cache, *arguments, **options):
    now = [array.tobytes() for array in (q, *cache.values(), *arguments)]
    again, _LAST[0] = now == _LAST[0], now
    return (_captured if again else right).paged_decode(q, cache, *arguments, **options)


append_decode = fused(paged_decode)
