"""Wrong: the first calls of a shape are computed with the tiles that are being timed, each with another (R08)."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "tile_is_still_being_tuned"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"bshd", "bhsd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC | {"tile": 2}

_TIMED = [reference_with(TILE=tile) for tile in (2, 4, 8)]
_CALLS = {}


def paged_decode(q, cache, *arguments, **options):
    shape = q.shape, cache["k"].shape, options["layout"]
    _CALLS[shape] = calls = _CALLS.get(shape, -1) + 1
    return _TIMED[min(calls, len(_TIMED) - 1)].paged_decode(q, cache, *arguments, **options)
