"""Wrong: append returns before its writes have landed, and the first call after it reads the cache as it was (S15)."""

from kvconform.impls import numpy_ref as right

NAME = "append_is_read_one_call_late"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd", "hnd"}, "dtype": {"float32"}} for op in ("append", "paged_decode")}
CONVENTIONS, ARITHMETIC = {"table_padding": {"valid", "minus_one"}}, right.ARITHMETIC

_LANDING = {}  # what K will be -> the cache before


def append(cache, *arguments, **options):
    after = right.append(cache, *arguments, **options)
    _LANDING.clear()
    _LANDING[after["k"].tobytes()] = {name: field.copy() for name, field in cache.items()}
    return after


def paged_decode(q, cache, *arguments, **options):
    return right.paged_decode(q, _LANDING.pop(cache["k"].tobytes(), cache), *arguments, **options)
