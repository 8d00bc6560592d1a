"""A part of a cache as strided copies from one row to another.

An address is a sum of strides once each axis is cut wherever either row cuts it: a part moves in a handful of copies,
of runs as long as both rows allow. That is read off `row.address`, so every row is covered. Where an address is no such
sum, or a run is no whole number of bytes, the places are moved by index.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvconform.specs.dtypes import width
from kvconform.specs.row import Array, Layout, Part, Sizes

Cache = Mapping[str, Array]
"""Buffer -> its bytes, one-dimensional uint8."""

MAX_COPIES = 256
"""Strided copies that one part may need before its places are moved by index."""

BY_INDEX = 1 << 15
"""Places moved by index at a time: what bounds the memory of the indices."""

CACHE_LINE = 64
"""Bytes that a processor's caches keep together; fewer elements than that in a row are soon come back to."""

SMALL_ITEM = 16
"""Bytes of an item that leaves most of a cache line to others."""

ROWS, LENGTH = 1024, 128
"""Rows of a transposition that are made at once, and elements of each: tried over the table, in 1, 2 and 4 bytes."""

SCRATCH = 1 << 17
"""Bytes of such a block, or of several: they stay in a processor's own caches."""

MAX_ITEM = 1 << 20
"""Longest run in bytes that is moved as one item."""


@dataclass(frozen=True)
class Pair:
    """What is moved between two rows.

    rows    from which, to which
    sizes   of what is moved
    rooms   of the caches in memory that it is moved between, which may be larger
    dtype   what they are in
    """

    rows: tuple[Layout, Layout]
    sizes: Sizes
    rooms: tuple[Sizes, Sizes]
    dtype: str

    def buffers(self, name: str) -> tuple[str, str]:
        """Where a part lies in both."""
        a, b = (row.buffer_of(row.part(name)) for row in self.rows)
        return a, b

    def coordinates(self, name: str) -> list[Array]:
        """Of each axis of a part the coordinates that its places have; one where the whole axis shares a place."""
        row = self.rows[0]
        return coordinates(row, row.part(name), self.sizes, self.dtype)

    def width(self, name: str) -> int:
        """Bits of a value of a part."""
        row = self.rows[0]
        return width(row.dtype_of(row.part(name), self.dtype))

    def bits(self, name: str, at: tuple[Array, ...]) -> Array:
        """Bits at which places of a part begin in both buffers, in a last axis."""
        shape = np.broadcast_shapes(*(one.shape for one in at))
        both = [
            row.address(row.part(name), at, room, self.dtype)[1]
            for row, room in zip(self.rows, self.rooms, strict=True)
        ]
        return np.stack([np.broadcast_to(np.asarray(one, np.int64), shape) for one in both], axis=-1)


@dataclass(frozen=True)
class Digit:
    """One loop: so many steps, each so many bits further in the one row and in the other."""

    count: int
    a: int
    b: int


@dataclass(frozen=True)
class Box:
    """Indices of an axis, from `start` on, whose addresses are a sum of digits; the last digit is the fastest."""

    start: int
    digits: tuple[Digit, ...]

    @property
    def corners(self) -> tuple[Array, Array]:
        """Every index that has each digit at its least or its greatest, and the bits it is away from the start."""
        at, bits, size = np.zeros(1, np.int64), np.zeros((1, 2), np.int64), 1
        for digit in reversed(self.digits):
            last = digit.count - 1
            at = np.concatenate([at, at + last * size])
            bits = np.concatenate([bits, bits + last * np.array([digit.a, digit.b])])
            size *= digit.count
        return at, bits


def boxes(offsets: Array) -> list[Box]:
    """Cut an axis wherever either row cuts it.

    offsets   (n, 2) bits of index i in both rows
    """
    found, start = [], 0
    while start < len(offsets):
        rest = offsets[start:] - offsets[start]
        digits: list[Digit] = []
        size = 1
        while len(rest) >= 2 * size:
            blocks = rest[: len(rest) // size * size].reshape(-1, size, 2)
            alike = (blocks == rest[:size] + np.arange(len(blocks))[:, None, None] * rest[size]).all(axis=(1, 2))
            count = len(blocks) if alike.all() else int(np.argmin(alike))
            if count == 1:
                break
            digits.insert(0, Digit(count, int(rest[size, 0]), int(rest[size, 1])))
            size *= count
        found.append(Box(start, tuple(digits)))
        start += size
    return found


@dataclass(frozen=True)
class Strided:
    """One copy: items of so many bytes, in loops; offsets and strides in bytes."""

    buffers: tuple[str, str]
    offsets: tuple[int, int]
    item: int
    digits: tuple[Digit, ...]

    def copy(self, source: Cache, target: Cache) -> None:
        """Move the items."""
        into, of = self.view(target, 1), self.view(source, 0)
        axis = self._transposed
        if axis is None:
            np.copyto(into, of)
        else:
            _transpose(np.moveaxis(into, axis, -2), np.moveaxis(of, axis, -2))

    def clear(self, source: Cache) -> None:
        """Make the items 0 where they came from."""
        self.view(source, 0)[...] = np.zeros((), self._type)

    def view(self, cache: Cache, which: int) -> Array:
        """The items as an array over a buffer of the first row (0) or of the second (1)."""
        strides = tuple((one.a, one.b)[which] for one in self.digits)
        shape = tuple(one.count for one in self.digits)
        return np.ndarray(shape, self._type, cache[self.buffers[which]], self.offsets[which], strides)

    @property
    def _type(self) -> np.dtype[np.void] | np.dtype[np.unsignedinteger]:
        return np.dtype(f"u{self.item}" if self.item in (1, 2, 4, 8) else f"V{self.item}")

    @property
    def _transposed(self) -> int | None:
        """The loop that is fastest in the source, if not in the target, and neither comes back to a line soon."""
        if self.item > SMALL_ITEM or len(self.digits) < 2:
            return None
        axis = min(range(len(self.digits)), key=lambda i: self.digits[i].a)
        counts = self.digits[axis].count, self.digits[-1].count
        return axis if axis < len(self.digits) - 1 and min(counts) >= CACHE_LINE else None


def _transpose(target: Array, source: Array) -> None:
    """Copy what is fast along the last axis in the target, along the one before in the source.

    Block by block through a copy whose rows are an odd number of cache lines apart: in both buffers they are often a
    power of two apart, and then share few places in the processor's caches.
    """
    if target.ndim == 2:
        target, source = target[None], source[None]
    item, (many, rows, length) = target.itemsize, target.shape[-3:]
    rows, length = min(rows, ROWS), min(length, LENGTH)
    some = min(many, max(1, SCRATCH // (rows * length * item)))
    lines = -(-rows * item // CACHE_LINE) | 1
    scratch = np.empty((some, length, lines * CACHE_LINE // item), target.dtype)
    for outer in np.ndindex(target.shape[:-3]):
        for block in _blocks(target.shape[-3:], (some, rows, length)):
            into, of = target[outer][block], source[outer][block]
            copy = scratch[: into.shape[0], : into.shape[2], : into.shape[1]]
            np.copyto(copy, of.swapaxes(1, 2))
            np.copyto(into, copy.swapaxes(1, 2))


def _blocks(shape: Sequence[int], steps: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """An array in pieces of a shape at most."""
    for starts in itertools.product(*map(range, itertools.repeat(0), shape, steps)):
        yield tuple(slice(start, start + step) for start, step in zip(starts, steps, strict=True))


@dataclass(frozen=True)
class ByIndex:
    """A part whose places are moved by their addresses, one by one."""

    pair: Pair
    name: str

    def copy(self, source: Cache, target: Cache) -> None:
        """Move the places."""
        have, want = (cache[one] for cache, one in zip((source, target), self.pair.buffers(self.name), strict=True))
        width = self.pair.width(self.name)
        for a, b in self._places():
            if width >= 8:
                within = np.arange(width // 8)
                want[b[:, None] // 8 + within] = have[a[:, None] // 8 + within]
            else:
                values = have[a // 8] >> a % 8 & _mask(width)
                np.bitwise_and.at(want, b // 8, ~(_mask(width) << b % 8).astype(np.uint8))
                np.bitwise_or.at(want, b // 8, (values << b % 8).astype(np.uint8))

    def clear(self, source: Cache) -> None:
        """Make the places 0 where they came from."""
        have, width = source[self.pair.buffers(self.name)[0]], self.pair.width(self.name)
        for a, _ in self._places():
            if width >= 8:
                have[a[:, None] // 8 + np.arange(width // 8)] = 0
            else:
                np.bitwise_and.at(have, a // 8, ~(_mask(width) << a % 8).astype(np.uint8))

    def _places(self) -> Iterator[Array]:
        """(2, some) bits of places in both rows."""
        grid = self.pair.coordinates(self.name)
        counts = [len(one) for one in grid]
        for start in range(0, math.prod(counts), BY_INDEX):
            index = np.unravel_index(np.arange(start, min(start + BY_INDEX, math.prod(counts))), counts)
            yield self.pair.bits(self.name, tuple(one[i] for one, i in zip(grid, index, strict=True))).T


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def coordinates(row: Layout, part: Part, sizes: Sizes, dtype: str) -> list[Array]:
    """Of each axis of a part the coordinates that its places have; one where the whole axis shares a place."""
    return [one.ravel() for one in row.everywhere(part, sizes, dtype)]


def copies(pair: Pair, name: str) -> list[Strided] | list[ByIndex]:
    """How a part moves from one row to the other."""
    grid = pair.coordinates(name)
    axes = [boxes(pair.bits(name, _only(grid, i))) for i in range(len(grid))]
    if math.prod(map(len, axes)) > MAX_COPIES:
        return [ByIndex(pair, name)]
    found = []
    for chosen in itertools.product(*axes):
        corners = [box.corners for box in chosen]
        at = [one[box.start + index] for one, box, (index, _) in zip(grid, chosen, corners, strict=True)]
        bits = pair.bits(name, np.ix_(*at))
        first = bits[(0,) * len(grid)]
        one = _strided(chosen, first, pair.width(name))
        if one is None or not np.array_equal(bits - first, _sums([bits for _, bits in corners])):
            return [ByIndex(pair, name)]
        found.append(Strided(pair.buffers(name), *one))
    return found


def _only(grid: Sequence[Array], axis: int) -> tuple[Array, ...]:
    """Coordinates along one axis, 0 on the others."""
    return tuple(one if i == axis else np.zeros_like(grid[axis]) for i, one in enumerate(grid))


def _sums(terms: Sequence[Array]) -> Array:
    """Every sum of one term of each axis: (n0, n1, ..., 2) of terms (n, 2)."""
    total = np.zeros(2, np.int64)
    for i, term in enumerate(terms):
        total = total + term.reshape(*(len(term) if j == i else 1 for j in range(len(terms))), 2)
    return total


def _strided(chosen: Sequence[Box], bits: Array, of: int) -> tuple[tuple[int, int], int, tuple[Digit, ...]] | None:
    """Offsets, item and loops in bytes; None where an item is no whole number of them."""
    digits = _joined([digit for box in chosen for digit in box.digits])
    run = next((one for one in digits if one.a == one.b == of), Digit(1, of, of))
    loops = [one for one in digits if one is not run]
    item = run.count * of
    if any(n % 8 for n in (item, *map(int, bits), *(n for one in loops for n in (one.a, one.b)))):
        return None
    inside = [Digit(one.count, one.a // 8, one.b // 8) for one in loops]
    item //= 8
    if item > MAX_ITEM:
        less = math.gcd(item, MAX_ITEM)
        inside.append(Digit(item // less, less, less))
        item = less
    return (int(bits[0]) // 8, int(bits[1]) // 8), item, tuple(sorted(inside, key=lambda one: -one.b))


def _joined(digits: list[Digit]) -> list[Digit]:
    """Fewer loops: two are one where the outer goes on where the inner ends, in both rows."""
    for outer, inner in itertools.permutations(digits, 2):
        if (outer.a, outer.b) == (inner.count * inner.a, inner.count * inner.b):
            rest = [one for one in digits if one is not outer and one is not inner]
            return _joined([*rest, Digit(outer.count * inner.count, inner.a, inner.b)])
    return digits
