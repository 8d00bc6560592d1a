"""Wrong: kv_lens are taken for int32 whatever they are, and every other one is 0 (O53, flashinfer#1654)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "wide_lengths_are_read_as_int32"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_kv_heads": 1}}


def gather(cache, block_table, kv_lens, *, layout):
    short = kv_lens.view(np.int32)[: len(kv_lens)]
    k, v = right.gather(cache, block_table, short, layout=layout)
    missing = [(0, int(kv_lens.sum() - short.sum())), (0, 0), (0, 0)]
    return tuple(np.pad(rows.view(f"u{rows.itemsize}"), missing).view(rows.dtype) for rows in (k, v))
