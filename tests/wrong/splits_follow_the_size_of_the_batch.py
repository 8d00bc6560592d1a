"""Wrong: a small batch is cut into more splits, to fill the machine, and rows are said not to depend on their batch."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "splits_follow_the_size_of_the_batch"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS = right.CONVENTIONS | {"invariances": {"batch"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 1, "splits": 8}


def paged_decode(q, *arguments, **options):
    return right.paged_decode(q, *arguments, **options, num_splits=max(1, 8 // len(q)))


append_decode = fused(paged_decode)
