"""Bytes by the index formula: the only place where a row's address becomes a read or a write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.layouts import Layout

Cache = dict[str, Array]


def _bytes(
    row: Layout, cache: Mapping[str, Array], side: int, at: tuple[Any, ...], sizes: Mapping[str, int], dtype: str
) -> tuple[Array, Array]:
    """(the field's buffer as bytes, index [..., itemsize] into it); a field that is not contiguous is refused."""
    name, bits = row.address(side, at, sizes, dtype)
    buffer = cache[name].reshape(-1).view(np.uint8)
    if not np.shares_memory(buffer, cache[name]) and buffer.size:
        raise ValueError(f"field {name!r} is not contiguous")
    return buffer, np.asarray(bits)[..., None] // 8 + np.arange(DTYPES[dtype].itemsize)


def store(row: Layout, cache: Cache, side: int, at: tuple[Any, ...], values: Array, sizes: Mapping[str, int]) -> None:
    """Write `values` at coordinates `at` (one broadcastable integer array for each of row.axes), in place."""
    dtype = values.dtype.name
    buffer, index = _bytes(row, cache, side, at, sizes, dtype)
    buffer[index] = np.ascontiguousarray(values).reshape(*values.shape, 1).view(np.uint8)


def load(row: Layout, cache: Mapping[str, Array], side: int, at: tuple[Any, ...], sizes: Mapping[str, int]) -> Array:
    """The elements at coordinates `at`."""
    dtype = cache[row.field_of(side)].dtype
    buffer, index = _bytes(row, cache, side, at, sizes, dtype.name)
    return np.ascontiguousarray(buffer[index]).view(dtype)[..., 0]
