"""Wrong: a head of q is taken to begin where the one before ends, whatever its stride; tokens may be anywhere."""

from numpy.lib.stride_tricks import as_strided

from kvconform.impls import numpy_ref as right

NAME = "heads_of_q_are_dense"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "strides": {"contiguous", "outer"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, *arguments, **options):
    dense = as_strided(q, strides=(q.strides[0], q.shape[2] * q.itemsize, q.itemsize))
    return right.paged_decode(dense, *arguments, **options)
