"""Wrong: where a token lies is counted in elements, in a signed integer of 32 bits, which wraps."""

import numpy as np

NAME = "gather_counts_elements_in_int32"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}}}


def gather(cache, block_table, kv_lens, *, layout):
    _, page_size, num_subspaces = cache["codes"].shape
    slots = block_table.astype(np.int64)[:, :, None] * page_size + np.arange(page_size)
    live = np.concatenate([row.ravel()[:n] for row, n in zip(slots, kv_lens, strict=True)])
    begin = (live * num_subspaces).astype(np.int32)
    flat = cache["codes"].reshape(-1)
    return flat[begin[:, None].astype(np.int64) + np.arange(num_subspaces)], None
