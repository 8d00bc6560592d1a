"""Wrong: q is filled up with zeros to whole lanes, and meets whatever lies in those of K (O30)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "padded_dims_are_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"packed", "packed_unaligned"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **options):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, **options)
    kv, heads = cache["kv"], options.get("num_kv_heads", 1)
    rows = kv.reshape(-1, kv.shape[2] * kv.shape[3], kv.shape[4])[:, : 2 * heads : 2, q.shape[2] :]
    for seq, n in enumerate(kv_lens):
        pages = block_table[seq, : -(-n // kv.shape[1])]
        slots = (pages[:, None] * kv.shape[1] + np.arange(kv.shape[1])).ravel()[:n]
        leak = (0 * rows[slots]).sum((0, 2))
        out[seq] += np.repeat(leak, q.shape[1] // heads)[:, None]
    return out, lse
