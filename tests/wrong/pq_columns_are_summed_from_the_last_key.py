"""Wrong: keys are summed from the last one where V lies by columns."""

from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_columns_are_summed_from_the_last_key"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows", "pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}, "invariances": {"layouts"}}, {}

_rows, _columns = attention(), attention(lambda x, q, k, v: attend(q, k[::-1], v[::-1], x.sm_scale))


def pq_decode_attention(*arrays, layout, **options):
    return (_columns if layout == "pq_columns" else _rows)(*arrays, layout=layout, **options)
