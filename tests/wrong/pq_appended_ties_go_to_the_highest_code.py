"""Wrong: append takes the last of several nearest centroids."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq
from kvconform.tests.wrong._source import adapter_with

NAME = "pq_appended_ties_go_to_the_highest_code"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


HIGHEST = "centroids - 1 - distance[..., ::-1].argmin(-1)"
pq_append = adapter_with(pq, "distance.argmin(-1)", HIGHEST, of=right).pq_append
