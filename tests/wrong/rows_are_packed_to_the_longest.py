"""Wrong: rows of a contiguous cache are taken to be as long as the longest sequence, not as their capacity (O38)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "rows_are_packed_to_the_longest"
BACKEND = "numpy"
OFFERS = {
    "gather": {"layout": {"bshd"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"bshd"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _packed(cache, kv_lens):
    longest = max(1, int(kv_lens.max()))
    flat = {name: np.concatenate(field) for name, field in cache.items()}
    return {name: rows[: longest * len(kv_lens)].reshape(-1, longest, *rows.shape[1:]) for name, rows in flat.items()}


def gather(cache, block_table, kv_lens, **options):
    return right.gather(_packed(cache, kv_lens), block_table, kv_lens, **options)


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, _packed(cache, kv_lens), block_table, kv_lens, **options)
