"""Right: subnormal float16 operands are zero to its matrix unit, as it declares."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "flushes_small_subnormals"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float16"}}}
CONVENTIONS = numpy_ref.CONVENTIONS
_OPERANDS = {"q_format": "float16", "k_format": "float16", "v_format": "float16"}
ARITHMETIC = numpy_ref.ARITHMETIC | _OPERANDS | {"flushes_small_subnormals": True}


def _flushed(array):
    return np.where(np.abs(array) < np.finfo(np.float16).tiny, np.float16(0), array)


def paged_decode(q, cache, *arguments, **options):
    read = {name: _flushed(array) for name, array in cache.items()}
    return numpy_ref.paged_decode(_flushed(q), read, *arguments, **options)
