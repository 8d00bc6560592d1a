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
    if not cache[name].flags.c_contiguous:
        raise ValueError(f"buffer {name!r} is not contiguous")
    return cache[name].reshape(-1).view(np.uint8)


def _elements(buffer: Array, bits: Array, count: int) -> tuple[Array, Array]:
    """A buffer's bytes as whole elements of `count` bits, and the index of those that begin at `bits`.

    Elements that lie askew are given byte by byte, on one more axis.
    """
    size = count // 8
    if buffer.size % size or (bits % count).any():
        return buffer, bits[..., None] // 8 + np.arange(size)
    return buffer.view(f"u{size}"), bits // count


def store(row: Layout, cache: Cache, part: Part, at: At, values: Array, sizes: Sizes, dtype: str) -> None:
    """Write `values` at coordinates `at` (one broadcastable integer array for each of part.axes), in place."""
    name, bits = row.address(part, at, sizes, dtype)
    put(cache, name, np.broadcast_to(np.asarray(bits), values.shape), values, width(row.dtype_of(part, dtype)))


def put(cache: Cache, name: str, bits: Array, values: Array, count: int) -> None:
    """Write elements of `count` bits to where they begin in a buffer, in place; `bits` has the shape of `values`."""
    buffer = _bytes(cache, name)
    if count >= 8:
        words, index = _elements(buffer, bits, count)
        words[index] = np.ascontiguousarray(values).reshape(*values.shape, 1).view(words.dtype).reshape(index.shape)
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
        words, index = _elements(buffer, bits, count)
        return np.ascontiguousarray(words[index]).view(host(of)).reshape(bits.shape)
    return np.asarray((buffer[bits // 8] >> (bits % 8).astype(np.uint8)) & np.uint8((1 << count) - 1))
