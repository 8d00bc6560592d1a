"""Wrong: one set of strides, those of K, serves K and V."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from kvconform.impls import numpy_ref as right

NAME = "v_is_read_with_the_strides_of_k"
BACKEND = "numpy"
OFFERS = {
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "strides": {"contiguous", "outer"}},
}
CONVENTIONS = right.CONVENTIONS


def _with_strides_of(k, v):
    """V as K lies in memory; behind the end of its storage, where nobody knows what is, zeros."""
    storage = v if v.base is None else v.base
    behind = storage.reshape(-1)[(v.ctypes.data - storage.ctypes.data) // v.itemsize :]
    reach = sum((n - 1) * stride for n, stride in zip(k.shape, k.strides, strict=True)) // k.itemsize + 1
    return as_strided(np.resize(np.append(behind, np.zeros(reach, v.dtype)), reach), v.shape, k.strides)


def gather(cache, block_table, kv_lens, *, layout):
    taken = cache | {"v": _with_strides_of(cache["k"], cache["v"])}
    return right.gather(taken, block_table, kv_lens, layout=layout)
