"""How an array lies in memory: contiguous, or a view into larger storage whose other bytes must stay as they are.

`wrap` makes the storage and says which slices of it are the array; whoever has handles slices the handle alike. What
lies around the view is the guard zone.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from kvconform.specs import data
from kvconform.specs.data import Array

STRIDES = ("contiguous", "outer", "all")
"""Choices of a Case's `strides`, simplest first."""

MOST_GUARDS = 3
"""Guard entries before an array, and behind it, on each strided axis: from 1 to so many."""

ALIGNED = 16
"""Entries that the rows of a view are a multiple of longer in storage: what begins at a whole vector still does."""

_SEED = 0x98
"""Of which neither `out` nor any argument of attention has the strides of another one of its rank."""


def wrap(array: Array, strides: str, name: str = "", gaps: str = "") -> tuple[Array, tuple[slice, ...]]:
    """(storage, slices): `storage[slices]` equals the array; everything else in the storage is a guard zone.

    outer   each axis has a few more entries in storage than in the array; the last of an array of rank 2 or more has
            them behind alone, and so many that rows stay aligned
    all     the same, and of the last axis every second entry is the array's
    name    of the argument: arrays of other names have other strides, so that V read with the strides of K shows
    gaps    contents of the guard zone (specs.data.DEAD); nothing: finite garbage, small numbers where it is indices
    """
    if strides == "contiguous" or not array.ndim:
        return array, ()
    widths = _widths(name, array.ndim)
    slices = [slice(before, before + n) for (before, _), n in zip(widths, array.shape, strict=True)]
    shape = [before + n + behind for (before, behind), n in zip(widths, array.shape, strict=True)]
    if strides == "all":
        slices[-1], shape[-1] = slice(0, 2 * array.shape[-1], 2), 2 * array.shape[-1]
    elif array.ndim > 1:
        slices[-1], shape[-1] = slice(0, array.shape[-1]), array.shape[-1]
    if array.ndim > 1:
        shape[-1] += ALIGNED * widths[-1][1]
    size = math.prod(shape)
    storage = np.resize(_guards(array.dtype, gaps), size).reshape(shape)
    storage[tuple(slices)] = array
    return storage, tuple(slices)


def guarded(array: Array, strides: str, name: str = "") -> tuple[Array, tuple[slice, ...]]:
    """The same with a guard zone behind the array alone, where it is not contiguous: its first byte stays aligned."""
    if strides == "contiguous":
        return array, ()
    behind = np.resize(_guards(array.dtype, ""), ALIGNED * MOST_GUARDS)
    return np.concatenate([array, behind]), (slice(0, len(array)),)


@cache
def _widths(name: str, ndim: int) -> list[tuple[int, int]]:
    """Guard entries before and behind an array on each axis."""
    axis = np.arange(ndim)
    before, behind = (data.hashes(_SEED, name + end, axis) % np.uint64(MOST_GUARDS) for end in (" before", " behind"))
    return [(1 + int(b), 1 + int(a)) for b, a in zip(before, behind, strict=True)]


@cache
def _guards(dtype: np.dtype[np.generic], gaps: str) -> Array:
    """Finite garbage for numbers, small numbers for indices, either truth: read for the array's own, they show."""
    if gaps:
        return data.dead(dtype.name, gaps, data.hashes(_SEED, "gaps", *data.grid(4093)))
    h = data.hashes(_SEED, "guards", *data.grid(4093))  # a prime: no stride of an array meets the same ones again
    if dtype.name in ("int32", "int64"):
        return np.asarray((h >> np.uint64(60)).astype(dtype))
    if dtype.name == "bool":
        return np.asarray((h >> np.uint64(63)).astype(dtype))
    return data.garbage(dtype.name, h)
