"""Wrong: a sequence without keys is skipped: its rows of the memory that results are written into stay as they are."""

from kvconform.impls import numpy_ref as right

NAME = "empty_rows_of_what_is_given_are_skipped"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "into": {"out", "lse"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, out=None, lse=None, **options):
    results = right.paged_decode(q, cache, block_table, kv_lens, **options)
    if out is None:
        return results
    for given, result in zip((out, lse), results, strict=True):
        given[kv_lens > 0] = result[kv_lens > 0]
    return out, lse
