"""How an array lies in memory: contiguous, or a view into larger storage whose other bytes must stay as they are.

`wrap` makes the storage and says which slices of it are the array; whoever has handles slices the handle alike. What
lies around the view is the guard zone.
"""

from __future__ import annotations

import numpy as np

from kvconform.specs import data
from kvconform.specs.data import Array

STRIDES = ("contiguous", "outer", "all")
"""Choices of a Case's `strides`, simplest first."""

BEFORE, BEHIND = 1, 2
"""Guard entries of each strided axis: one before the array, two behind."""

_GUARDS = 0x6A


def wrap(array: Array, strides: str) -> tuple[Array, tuple[slice, ...]]:
    """(storage, slices): `storage[slices]` equals the array; everything else in the storage is a guard zone.

    outer   an axis of size n has n + 3 entries in storage, the last axis of an array of rank 2 or more has n
    all     the last axis has 2 n entries, of which every second is the array's
    """
    if strides == "contiguous" or not array.ndim:
        return array, ()
    slices = [slice(BEFORE, BEFORE + n) for n in array.shape]
    shape = [BEFORE + n + BEHIND for n in array.shape]
    if strides == "all":
        slices[-1], shape[-1] = slice(0, 2 * array.shape[-1], 2), 2 * array.shape[-1]
    elif array.ndim > 1:
        slices[-1], shape[-1] = slice(0, array.shape[-1]), array.shape[-1]
    storage = _guarded(tuple(shape), array.dtype)
    storage[tuple(slices)] = array
    return storage, tuple(slices)


def _guarded(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Finite garbage for numbers, small numbers for indices: read for the array's own, they show in the result."""
    h = data.hashes(_GUARDS, "guards", *data.grid(*shape))
    if dtype.name in ("int32", "int64"):
        return np.asarray((h >> np.uint64(60)).astype(dtype))
    return data.garbage(dtype.name, h)
