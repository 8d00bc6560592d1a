"""Wrong: elements are counted in 32 bits, and pages whose count is negative read as zeros (D05, flashinfer#3130)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "decode_reads_zeros_past_int32"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "pool": {"dense", "sparse"}, "kv_lens": range(129)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    size = int(np.prod(cache["k"].shape[1:]))
    far = (block_table.astype(np.int64) * size).astype(np.int32) < 0
    used = np.unique(block_table[(block_table >= 0) & (block_table < len(cache["k"]))])
    some = {name: array[used] for name, array in cache.items()}
    empty = {
        name: np.concatenate([array, np.zeros_like(array[:1], shape=(1, *array.shape[1:]))])
        for name, array in some.items()
    }
    table = np.where(far, len(used), np.searchsorted(used, block_table))
    return right.paged_decode(q, empty, table, kv_lens, layout=layout, sm_scale=sm_scale)
