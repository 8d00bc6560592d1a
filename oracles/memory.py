"""Bits by the index formula: the only place where a row's address becomes a read or a write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Spots:
    """Where elements of one width are in a buffer.

    buffer   its name
    count    bits of an element
    shape    of the elements
    index    of each in the bytes of the buffer, seen as words of `size` bytes; on one more axis where it lies askew, so
             that it is several; of an element of less than a byte the bit at which it begins
    """

    buffer: str
    count: int
    shape: tuple[int, ...]
    index: Array
    size: int = 1

    def words(self, cache: Mapping[str, Array]) -> Array:
        """The buffer as what `index` counts."""
        found = _bytes(cache, self.buffer)
        return found if self.size == 1 else found.view(f"u{self.size}")


def _spots(num_bytes: int, name: str, bits: Array, count: int) -> Spots:
    """Elements of `count` bits that begin at `bits` of a buffer of so many bytes."""
    size = count // 8
    if not size:
        return Spots(name, count, bits.shape, bits)
    if num_bytes % size or (bits & (count - 1)).any():  # a power of two: to shift takes a tenth of a division's time
        return Spots(name, count, bits.shape, (bits >> 3)[..., None] + np.arange(size))
    return Spots(name, count, bits.shape, bits >> (count.bit_length() - 1), size)


def spots(
    row: Layout,
    cache: Mapping[str, Array],
    part: Part,
    at: At,
    sizes: Sizes,
    dtype: str,
    shape: tuple[int, ...] | None = None,
) -> Spots:
    """Where the elements at coordinates `at` are, one broadcastable integer array for each of part.axes.

    shape   what they broadcast to, if to more than each other
    """
    name, bits = row.address(part, at, sizes, dtype)
    shape = np.broadcast_shapes(*(np.shape(index) for index in at)) if shape is None else shape
    return _spots(cache[name].nbytes, name, np.broadcast_to(np.asarray(bits), shape), width(row.dtype_of(part, dtype)))


def store(row: Layout, cache: Cache, part: Part, at: At, values: Array, sizes: Sizes, dtype: str) -> None:
    """Write `values` at coordinates `at`, in place."""
    write(cache, spots(row, cache, part, at, sizes, dtype, values.shape), values)


def put(cache: Cache, name: str, bits: Array, values: Array, count: int) -> None:
    """Write elements of `count` bits to where they begin in a buffer, in place; `bits` has the shape of `values`."""
    write(cache, _spots(cache[name].nbytes, name, bits, count), values)


def write(cache: Cache, to: Spots, values: Array) -> None:
    """Write `values`, of the shape of the spots, in place."""
    words, index = to.words(cache), to.index
    if to.count >= 8:
        words[index] = np.ascontiguousarray(values).reshape(*values.shape, 1).view(words.dtype).reshape(index.shape)
        return
    for inside in range(0, 8, to.count):  # those that share a byte one after another
        here = index % 8 == inside
        byte, mask = index[here] // 8, ((1 << to.count) - 1) << inside
        words[byte] = words[byte] & np.uint8(255 ^ mask) | (values[here] << np.uint8(inside)) & np.uint8(mask)


def load(row: Layout, cache: Mapping[str, Array], part: Part, at: At, sizes: Sizes, dtype: str) -> Array:
    """The elements at coordinates `at`."""
    of = spots(row, cache, part, at, sizes, dtype)
    words, index = of.words(cache), of.index
    if of.count >= 8:
        return np.ascontiguousarray(words[index]).view(host(row.dtype_of(part, dtype))).reshape(of.shape)
    return np.asarray((words[index // 8] >> (index % 8).astype(np.uint8)) & np.uint8((1 << of.count) - 1))
