"""A tile of a cache is some of its pages, or some slots of one page: itself a small cache of the same row.

In a buffer its bytes lie as runs at equal distances, so a cache is converted tile by tile, each read and written run by
run, in bounded memory. That is read off `row.address`; where a buffer has no such order, it is one tile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvconform.specs.convert import Refused
from kvconform.specs.row import Array, Layout, Sizes
from kvconform.specs.strides import CACHE_LINE, coordinates

LIMIT = 64 << 20
"""Bytes of a tile of both rows together, unless the caller says otherwise."""

TILE = 2 << 20
"""Bytes that such a tile is at least, where there are so many: smaller ones cost more in calls than they move."""

RUN = 1 << 16
"""Bytes that a run is at least, where the limit allows."""

BLOCK = 4096
"""Bytes that a file system keeps together."""

PROBED = 4096
"""Indices of an axis that are looked at to find how many belong together."""


@dataclass(frozen=True)
class Tile:
    """So many pages from the first one on, and so many slots of each, counted in units of what belongs together."""

    page: int
    pages: int
    slot: int
    slots: int


@dataclass(frozen=True)
class Room:
    """Memory for so many pages of so many slots."""

    pages: int
    slots: int


@dataclass(frozen=True)
class Steps:
    """How large the tiles are.

    rooms   memory of both rows; a tile is what the larger one holds
    slots   of a tile
    inner   slots that are moved at once; fewer where one row has short runs, and only there long ones are collected
    """

    rooms: tuple[Room, Room]
    slots: int
    inner: int


@dataclass(frozen=True)
class Cut:
    """An axis that tiles are cut along: how many units it has, and how many indices each."""

    axis: str
    count: int
    unit: int


@dataclass(frozen=True)
class Grid:
    """The shape of a buffer's bytes, slowest first; `unit` is of one slot of what stands `between` page and slot."""

    before: int = 1
    pages: int = 1
    between: int = 1
    slots: int = 1
    unit: int = 1

    def size(self, room: Room) -> int:
        """Bytes of memory for so many pages and slots."""
        return self.before * room.pages * self.between * room.slots * self.unit

    def runs(self, tile: Tile, room: Room) -> Iterator[tuple[int, int, int]]:
        """(offset in the buffer, offset in memory, length) of every run of a tile."""
        if tile.slots == self.slots == room.slots:
            page = self.between * self.slots * self.unit
            for before in range(self.before):
                yield (before * self.pages + tile.page) * page, before * room.pages * page, tile.pages * page
        else:
            for before, page, between in itertools.product(*map(range, (self.before, tile.pages, self.between))):
                at = (before * self.pages + tile.page + page) * self.between + between
                there = (before * room.pages + page) * self.between + between
                yield (at * self.slots + tile.slot) * self.unit, there * room.slots * self.unit, tile.slots * self.unit

    def run(self, slots: int) -> int:
        """Bytes that one more page, or slot, adds to each run of a tile of so many slots; 0 where it is one run."""
        if slots < self.slots:
            return self.unit if self.before * self.between > 1 else 0
        return self.between * self.slots * self.unit if self.before > 1 else 0

    def offset(self, byte: int, tile: Tile, room: Room) -> int:
        """Where in the buffer a byte of memory belongs."""
        shape = (self.before, room.pages, self.between, room.slots, self.unit)
        before, page, between, slot, rest = (int(one) for one in np.unravel_index(byte, shape))
        at = ((before * self.pages + tile.page + page) * self.between + between) * self.slots + tile.slot + slot
        return at * self.unit + rest


Grids = Mapping[str, Grid]
"""Buffer -> the shape of its bytes."""


@dataclass(frozen=True)
class Tiling:
    """How a conversion is cut into tiles.

    a, b    the rows
    sizes   of the axes
    dtype   what the cache is in
    cuts    pages, or what stands in their place, then slots; as far as every buffer is in that order
    grids   of both rows
    """

    a: Layout
    b: Layout
    sizes: Sizes
    dtype: str
    cuts: tuple[Cut, ...]
    grids: tuple[Grids, Grids]

    @property
    def whole(self) -> Room:
        """All pages and slots."""
        grid = next(iter(self.grids[0].values()))
        return Room(grid.pages, grid.slots)

    def bytes_of(self, rooms: tuple[Room, Room]) -> int:
        """Bytes of memory of both rows."""
        return sum(grid.size(room) for grids, room in zip(self.grids, rooms, strict=True) for grid in grids.values())

    @property
    def least(self) -> int:
        """Bytes of memory that the least tile takes."""
        whole = self.bytes_of((Room(1, self.whole.slots),) * 2)
        return whole if whole <= TILE else self.bytes_of((Room(1, 1), Room(1, 1)))

    def sizes_of(self, room: Room | Tile) -> Sizes:
        """The sizes of so many pages and slots as a cache."""
        counts = (room.pages, room.slots)
        return {**self.sizes, **{cut.axis: n * cut.unit for cut, n in zip(self.cuts, counts, strict=False)}}

    def steps(self, limit: int = LIMIT) -> Steps:
        """The tiles that fit the limit, no larger than keeps runs long: small ones stay in the processor's caches.

        Raises Refused when the limit is below the least tile.
        """
        whole = self.whole
        one = Room(1, whole.slots)
        if self.bytes_of((one, one)) > min(TILE, limit):
            one = Room(1, 1)
        size = self.bytes_of((one, one))
        if size > limit:
            raise Refused(
                f"{self.a.name} -> {self.b.name}: the least that can be moved at once takes {size} bytes of memory, "
                f"more than the limit of {limit}"
            )
        runs = [grid.run(one.slots) for grids in self.grids for grid in grids.values()]
        want = max([-(-TILE // size), *(-(-RUN // run) for run in runs if run)])
        if one.slots == whole.slots:
            room = Room(min(want, limit // size, whole.pages), whole.slots)
            return Steps((room, room), whole.slots, whole.slots)
        apart = [self._is_apart(grids) for grids in self.grids]
        if apart[0] == apart[1]:
            slots, length = self._row(min(want, limit // size))
            return Steps((Room(1, length), Room(1, slots)), slots, slots)
        large, small = (
            sum(grid.size(one) for grid in self.grids[apart.index(which)].values()) for which in (True, False)
        )
        inner = max(1, min(TILE // 2, limit - large) // small)
        slots, length = self._row(min(want, (limit - inner * small) // large))
        inner = min(inner, slots)
        rooms = (Room(1, length), Room(1, inner)) if apart[0] else (Room(1, inner), Room(1, slots))
        return Steps(rooms, slots, inner)

    def _is_apart(self, grids: Grids) -> bool:
        """Whether a row's runs are short where it has half the memory of a small tile."""
        slots = TILE // 2 // sum(grid.size(Room(1, 1)) for grid in grids.values())
        return any(grid.before * grid.between > 1 and slots * grid.unit < RUN // 2 for grid in grids.values())

    def _row(self, most: int) -> tuple[int, int]:
        """(slots of a tile, slots of memory that they are read to): at most so many.

        Tiles of about one size, in whole blocks of the file where these are small against them. In memory a row is an
        odd number of cache lines: lines that are a power of two apart share few places in the processor's caches.
        """
        whole = self.whole.slots
        units = [grid.unit for grids in self.grids for grid in grids.values() if grid.before * grid.between > 1]
        if not units:
            return min(most, whole), min(most, whole)
        line, block = (math.lcm(min(units), size) // min(units) for size in (CACHE_LINE, BLOCK))
        fits = most - 2 * line if most > 2 * line else most
        slots = -(-whole // -(-whole // fits))
        if slots > 2 * block:
            slots = min(-(-slots // block), fits // block) * block
        lines = -(-slots // line)
        length = (lines + (lines % 2 == 0)) * line
        return slots, length if length <= most else slots

    def tiles(self, steps: Steps) -> Iterator[Tile]:
        """Every tile, page by page."""
        whole, pages = self.whole, steps.rooms[0].pages
        for page, slot in itertools.product(range(0, whole.pages, pages), range(0, whole.slots, steps.slots)):
            yield Tile(page, min(pages, whole.pages - page), slot, min(steps.slots, whole.slots - slot))

    def inside(self, tile: Tile, steps: Steps) -> Iterator[Tile]:
        """The tile in pieces that are moved at once."""
        end = tile.slot + tile.slots
        for slot in range(tile.slot, end, steps.inner):
            yield replace(tile, slot=slot, slots=min(steps.inner, end - slot))


def tiling(a: Layout, b: Layout, sizes: Sizes, dtype: str) -> Tiling:
    """Cut a conversion as finely as the buffers of both rows allow."""
    axes = [axis for i, axis in enumerate(a.axes[:2]) if i == 0 or axis == "slot"]
    cuts = tuple(_cut(axis, (a, b), sizes, dtype) for axis in axes)
    for depth in range(len(cuts), 0, -1):
        grids = [{name: _grid(row, name, cuts[:depth], sizes, dtype) for name in row.buffers} for row in (a, b)]
        known = [{name: grid for name, grid in one.items() if grid} for one in grids]
        found = Tiling(a, b, sizes, dtype, cuts[:depth], (known[0], known[1]))
        if known == grids and all(_agrees(found, which) for which in (0, 1)):
            return found
    known = [{name: Grid(unit=row.num_bytes(name, sizes, dtype)) for name in row.buffers} for row in (a, b)]
    return Tiling(a, b, sizes, dtype, (), (known[0], known[1]))


def _cut(axis: str, rows: Sequence[Layout], sizes: Sizes, dtype: str) -> Cut:
    """The least number of indices after which every part of both rows goes on as it began, by whole bytes."""
    if fixed := [row.fixed[axis] for row in rows if axis in row.fixed]:
        return Cut(axis, 1, fixed[0])
    count = sizes[axis]
    index = np.arange(min(count, PROBED))
    parts = [(row, part.name) for row in rows for part in row.parts]
    bits = np.stack([_along(row, name, axis, index, sizes, dtype) for row, name in parts], axis=-1)
    for unit in range(1, len(index) // 2 + 1):
        if count % unit or (bits[unit] % 8).any():
            continue
        blocks = bits[: len(bits) // unit * unit].reshape(-1, unit, bits.shape[1])
        if (blocks == bits[:unit] + np.arange(len(blocks))[:, None, None] * bits[unit]).all():
            return Cut(axis, count // unit, unit)
    return Cut(axis, 1, count)


def _grid(row: Layout, buffer: str, cuts: Sequence[Cut], sizes: Sizes, dtype: str) -> Grid | None:
    """The bytes of a buffer in these cuts; None where they lie in another order."""
    inside = row.num_bytes(buffer, sizes, dtype)
    parts = [part.name for part in row.parts if row.buffer_of(part) == buffer]
    shape = []
    for cut in cuts:
        lengths = {inside}
        if cut.count > 1:
            ends = np.array([0, cut.unit])
            lengths = {int(_along(row, name, cut.axis, ends, sizes, dtype)[1]) // 8 for name in parts}
        length = lengths.pop()
        if lengths or inside % (cut.count * length):
            return None
        shape.append((inside // (cut.count * length), cut.count))
        inside = length
    (before, pages), (between, slots) = (*shape, (1, 1))[:2]
    return Grid(before, pages, between, slots, inside)


def _agrees(found: Tiling, which: int) -> bool:
    """Whether the corners of the last tile of a row lie where its grids say."""
    row, whole = (found.a, found.b)[which], found.whole
    pages, slots = min(2, whole.pages), min(2, whole.slots)
    tile = Tile(whole.pages - pages, pages, whole.slots - slots, slots)
    room = Room(pages, slots)
    small = found.sizes_of(room)
    if row.flaw(small, found.dtype):
        return False
    first = {cut.axis: n * cut.unit for cut, n in zip(found.cuts, (tile.page, tile.slot), strict=False)}
    for part in row.parts:
        ends = [one[[0, -1]] for one in coordinates(row, part, small, found.dtype)]
        shifted = [one + first.get(axis, 0) for axis, one in zip(part.axes, ends, strict=True)]
        buffer, have = row.address(part, np.ix_(*ends), small, found.dtype)
        want = row.address(part, np.ix_(*shifted), found.sizes, found.dtype)[1]
        grid = found.grids[which][buffer]
        if any(
            8 * grid.offset(int(h) // 8, tile, room) + h % 8 != w
            for h, w in zip(np.ravel(have), np.ravel(want), strict=True)
        ):
            return False
    return True


def _along(row: Layout, name: str, axis: str, index: Array, sizes: Sizes, dtype: str) -> Array:
    """Bits from index 0 of an axis to others, in one part."""
    part = row.part(name)
    at = tuple(index if one == axis else np.zeros_like(index) for one in part.axes)
    bits = np.zeros_like(index) + row.address(part, at, sizes, dtype)[1]
    return np.asarray(bits - bits[0])
