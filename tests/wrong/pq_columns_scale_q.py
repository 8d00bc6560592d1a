"""Wrong: q is scaled and not the scores where V lies by columns."""

import numpy as np

from kvconform.tests.wrong._pq import attend, attention

NAME = "pq_columns_scale_q"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows", "pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}, "invariances": {"layouts"}}, {}

_rows, _columns = attention(), attention(lambda x, q, k, v: attend(q * np.float32(x.sm_scale), k, v, 1.0))


def pq_decode_attention(*arrays, layout, **options):
    return (_columns if layout == "pq_columns" else _rows)(*arrays, layout=layout, **options)
