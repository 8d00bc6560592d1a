"""Wrong: of a window no more tiles are visited than the 256 keys that are staged."""

from kvconform.impls import numpy_ref as right

NAME = "window_ends_with_the_staged_tiles"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "window": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*given, window=None, **options):
    return right.paged_decode(*given, window=None if window is None else min(window, 256), **options)
