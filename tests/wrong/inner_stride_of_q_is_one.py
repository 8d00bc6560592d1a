"""Wrong: neighbouring dims of q are taken to be neighbours in memory (O49, aiter#4531)."""

from numpy.lib.stride_tricks import as_strided

from kvconform.impls import numpy_ref as right

NAME = "inner_stride_of_q_is_one"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {
        "layout": {"nhd", "bshd"},
        "dtype": {"float32", "bfloat16"},
        "strides": {"contiguous", "outer", "all"},
    },
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, *arguments, **options):
    return right.paged_decode(as_strided(q, strides=(*q.strides[:-1], q.itemsize)), *arguments, **options)
