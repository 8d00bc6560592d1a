"""Wrong: a row of the block table is taken to begin where the one before ends: a slice of a wider one is none."""

from numpy.lib.stride_tricks import as_strided

from kvconform.impls import numpy_ref as right

NAME = "rows_of_the_block_table_are_dense"
BACKEND = "numpy"
OFFERS = {
    op: {"layout": {"nhd"}, "dtype": {"float32"}, "strides": {"contiguous", "outer"}}
    for op in ("paged_decode", "gather")
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _dense(block_table):
    return as_strided(block_table, strides=(block_table.shape[1] * block_table.itemsize, block_table.itemsize))


def paged_decode(q, cache, block_table, *arguments, **options):
    return right.paged_decode(q, cache, _dense(block_table), *arguments, **options)


def gather(cache, block_table, *arguments, **options):
    return right.gather(cache, _dense(block_table), *arguments, **options)
