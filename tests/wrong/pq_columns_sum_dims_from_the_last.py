"""Wrong: dims of a dot are summed from the last one where V lies by columns."""

from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_columns_sum_dims_from_the_last"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows", "pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}, "invariances": {"layouts"}}, {}

_rows, _columns = attention(), attention(lambda x, q, k, v: attend(q[:, ::-1], k[:, ::-1], v, x.sm_scale))


def pq_decode_attention(*arrays, layout, **options):
    return (_columns if layout == "pq_columns" else _rows)(*arrays, layout=layout, **options)
