"""Bits by the index formula: the only place where a row's address becomes a read or a write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.dtypes import host, width
from kvconform.specs.row import Layout, Part, Sizes

Cache = dict[str, Array]
At = tuple[Any, ...]


def _bytes(cache: Mapping[str, Array], name: str) -> Array:
    """A buffer as its bytes; one that is not contiguous is refused."""
    buffer = cache[name].reshape(-1).view(np.uint8)
    if not np.shares_memory(buffer, cache[name]) and buffer.size:
        raise ValueError(f"buffer {name!r} is not contiguous")
    return buffer


def store(row: Layout, cache: Cache, part: Part, at: At, values: Array, sizes: Sizes, dtype: str) -> None:
    """Write `values` at coordinates `at` (one broadcastable integer array for each of part.axes), in place."""
    name, bits = row.address(part, at, sizes, dtype)
    buffer, count = _bytes(cache, name), width(row.dtype_of(part, dtype))
    bits = np.broadcast_to(np.asarray(bits), values.shape)
    if count >= 8:
        index = bits[..., None] // 8 + np.arange(count // 8)
        buffer[index] = np.ascontiguousarray(values).reshape(*values.shape, 1).view(np.uint8)
        return
    for inside in range(0, 8, count):  # those that share a byte one after another
        here = bits % 8 == inside
        index, mask = bits[here] // 8, ((1 << count) - 1) << inside
        buffer[index] = buffer[index] & np.uint8(255 ^ mask) | (values[here] << np.uint8(inside)) & np.uint8(mask)


def load(row: Layout, cache: Mapping[str, Array], part: Part, at: At, sizes: Sizes, dtype: str) -> Array:
    """The elements at coordinates `at`."""
    name, bits = row.address(part, at, sizes, dtype)
    of = row.dtype_of(part, dtype)
    buffer, count = _bytes(cache, name), width(of)
    bits = np.broadcast_to(np.asarray(bits), np.broadcast_shapes(*(np.shape(index) for index in at)))
    if count >= 8:
        index = bits[..., None] // 8 + np.arange(count // 8)
        return np.ascontiguousarray(buffer[index]).view(host(of))[..., 0]
    return np.asarray((buffer[bits // 8] >> (bits % 8).astype(np.uint8)) & np.uint8((1 << count) - 1))
