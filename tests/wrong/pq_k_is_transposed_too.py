"""Wrong: pages of K are transposed like those of V."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.impls.numpy_kernels import pq
from kvconform.tests.wrong._source import adapter_with

NAME = "pq_k_is_transposed_too"
BACKEND = "numpy"
OFFERS = {"pq_append": {"layout": {"pq_columns"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


_wrong = adapter_with(pq, '"pq_columns": {"v"}', '"pq_columns": {"k", "v"}', of=right)


def pq_append(cache, *arrays, **options):
    turned = cache | {"k": np.ascontiguousarray(cache["k"].reshape(cache["v"].shape))}
    found = _wrong.pq_append(turned, *arrays, **options)
    return found | {"k": found["k"].reshape(cache["k"].shape)}
