"""Wrong: one set of strides, those of K, serves K and V."""

from numpy.lib.stride_tricks import as_strided

from kvconform.impls import numpy_ref as right

NAME = "v_is_read_with_the_strides_of_k"
BACKEND = "numpy"
OFFERS = {
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "strides": {"contiguous", "outer"}},
}
CONVENTIONS = right.CONVENTIONS


def gather(cache, block_table, kv_lens, *, layout):
    k, v = cache["k"], cache["v"]
    taken = {"k": k, "v": as_strided(v, v.shape, k.strides)}
    return right.gather(taken, block_table, kv_lens, layout=layout)
