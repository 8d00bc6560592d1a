"""Wrong: a sequence without keys keeps what the output buffer held (O08)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "empty_rows_are_not_written"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, **options)
    out[kv_lens == 0] = np.nan
    return out, lse
