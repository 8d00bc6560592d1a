"""Right: keys are summed from either end, every other call, and that is declared."""

from kvconform.tests.wrong._pq import attend, attention

NAME = "sums_codes_in_any_order"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows", "pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero", "finite", "nan"}, "deterministic": False}, {}

_ENDS = (
    attention(),
    attention(lambda x, q, k, v: attend(q, k[::-1], v[::-1], x.sm_scale)),
)
_CALLS = [0]


def pq_decode_attention(*arrays, **options):
    _CALLS[0] += 1
    return _ENDS[_CALLS[0] % 2](*arrays, **options)
