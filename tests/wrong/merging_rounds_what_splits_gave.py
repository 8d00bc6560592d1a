"""Wrong: splits are merged by their lse as everywhere, and are said not to matter."""

from kvconform.impls import numpy_ref as right

NAME = "merging_rounds_what_splits_gave"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": {"splits"}}, right.ARITHMETIC

paged_decode = right.paged_decode
