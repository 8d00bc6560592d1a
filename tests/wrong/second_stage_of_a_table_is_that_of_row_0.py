"""Wrong: block tables are staged 256 entries at a time, and all stages but the first are those of the first row."""

from kvconform.impls import numpy_ref as right

NAME = "second_stage_of_a_table_is_that_of_row_0"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, *given, **options):
    staged = block_table.copy()
    staged[:, 256:] = staged[0, 256:].clip(0, len(cache["k"]) - 1)
    return right.paged_decode(q, cache, staged, *given, **options)
