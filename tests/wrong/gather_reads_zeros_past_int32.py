"""Wrong: elements are counted in 32 bits, and loads whose count came out negative are masked to zeros."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "gather_reads_zeros_past_int32"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}}}


def gather(cache, block_table, kv_lens, *, layout):
    _, page_size, num_subspaces = cache["codes"].shape
    rows, _ = right.gather(cache, block_table, kv_lens, layout=layout)
    begin = (block_table.astype(np.int64) * page_size * num_subspaces).astype(np.int32)
    page = [np.repeat(row, page_size)[:n] for row, n in zip(begin, kv_lens, strict=True)]
    return np.where(np.concatenate(page)[:, None] < 0, np.uint8(0), rows), None
