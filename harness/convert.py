"""Converts a cache in files from one row to another, in bounded memory: what is read, moved and written is a tile."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np

from kvconform.harness.cache_files import Stored
from kvconform.specs.convert import Move, Refused, components, has_padding, move
from kvconform.specs.dtypes import DType
from kvconform.specs.formula import sizes_text
from kvconform.specs.pattern import LineError
from kvconform.specs.row import Layout, Sizes
from kvconform.specs.strides import Cache
from kvconform.specs.tiles import LIMIT, Steps, Tile, Tiling, tiling

OPTIONS = {"page": "--num-pages", "slot": "--page-size", "head": "--num-kv-heads", "dim": "--head-dim"}
OPTIONS |= {"dim_v": "--head-dim-v"}
"""Axis -> the option that gives its size."""

TRIAL = 3840
"""A size that every cut in the table divides: what a dimension is to the axes is seen by trying it and its double."""

COPY_CHUNK = 4 << 20
"""Bytes that a plain copy moves at a time: larger pieces leave the processor's caches, and are no faster."""

WORKERS = 4
"""Tiles in flight at most, on a machine of so many processors: they share the memory out among them."""

NEAR = 320
"""How far the padding of a row can set a size off from what the dimension alone says."""


Files = Mapping[str, Stored]
"""Buffer -> its array in a file."""


# --- what a file holds


def find_dtype(row: Layout, arrays: Files, given: str | None) -> str:
    """What a cache is in: the only type of the row that has these arrays, or the one given.

    Raises Refused when there is no such type, or the given one has other arrays.
    """
    types = {name: one.dtype for name, one in arrays.items()}
    if given is None:
        return _only_type(row, arrays)
    if given not in row.dtypes:
        raise Refused(f"{row.name} is not defined for {given}; it takes {', '.join(row.dtypes)}")
    for name, dtype in types.items():
        word = row.word_of(name, given)
        if not _may_be(dtype, word):
            raise Refused(
                f"{arrays[name].name}: {name} is of {dtype}; in {row.name}, in {given}, it is of {word}, or of "
                f"integers of {8 * word.itemsize} bits"
            )
    return given


def _only_type(row: Layout, arrays: Files) -> str:
    types = {name: one.dtype for name, one in arrays.items()}
    words = {one: {name: row.word_of(name, one) for name in types} for one in row.dtypes}
    fits = [one for one in row.dtypes if words[one] == types]
    if len(fits) == 1:
        return fits[0]
    told = " and ".join(f"{name} of {dtype}" for name, dtype in types.items())
    may = fits or [one for one in row.dtypes if all(_may_be(types[name], word) for name, word in words[one].items())]
    if not may:
        raise Refused(f"{_names(arrays)}: {told}, but {row.name} is defined for {', '.join(row.dtypes)}")
    raise Refused(f"{_names(arrays)}: {told} may be {row.name} in {' or '.join(may)}: give --dtype")


def _may_be(dtype: DType, word: DType) -> bool:
    """Whether an array's values may be those of a type: of it, or its bits, as integers or as bytes without a name."""
    return dtype == word or (dtype.kind in "iuV" and dtype.isbuiltin != 2 and dtype.itemsize == word.itemsize)


def find_sizes(row: Layout, arrays: Files, given: Sizes, dtype: str) -> Sizes:
    """The size of every axis: given, fixed, or read off the shapes.

    Raises Refused when the shapes leave a size open, or are not those that the sizes give.
    """
    axes = tuple(dict.fromkeys(axis for part in row.parts for axis in part.axes))
    for axis in given:
        if axis not in axes:
            raise Refused(f"{OPTIONS.get(axis, axis)}: {row.name} has no such axis, only {', '.join(axes)}")
    sizes = {**row.fixed, **given}
    for name, one in arrays.items():
        want = len(row.shape(name, {**dict.fromkeys(axes, TRIAL), **row.fixed}, dtype))
        if len(one.shape) != want:
            raise Refused(f"{_of(row, name, one)} has {want} dimensions, the file's array has the shape {one.shape}")
        if 0 in one.shape:
            raise Refused(f"{one.name}: {name} of shape {one.shape} holds nothing")
    while new := {
        axis: found for axis in axes if axis not in sizes for found in _solve(row, arrays, axis, sizes, dtype)
    }:
        sizes |= new
    left = [axis for axis in axes if axis not in sizes]
    if left:
        options = " and ".join(OPTIONS.get(axis, axis) for axis in left)
        shapes = " and ".join(f"{name} of shape {one.shape}" for name, one in arrays.items())
        said = {axis: _solutions(row, arrays, axis, sizes, dtype) for axis in left}
        if none := [OPTIONS.get(axis, axis) for axis, some in said.items() if not all(some)]:
            also = "".join(f" with {OPTIONS.get(axis, axis)} {size}" for axis, size in given.items())
            raise Refused(f"{_names(arrays)}: {shapes}: no {none[0]} gives that{also} in {_lines(row)}")
        if any(len(some) > 1 and not set.intersection(*some) for some in said.values()):
            raise Refused(f"{_names(arrays)}: {shapes}: not of one cache in {row.name}, they differ in {options}")
        raise Refused(
            f"{_names(arrays)}: {shapes}: this does not say all sizes of a cache in {row.name}: give {options}"
        )
    if flaw := row.flaw(sizes, dtype):
        raise Refused(f"{_names(arrays)}: a cache of {sizes_text(row, sizes)} in {dtype}: {flaw}")
    for name, one in arrays.items():
        want_shape = row.shape(name, sizes, dtype)
        if want_shape != one.shape:
            told = ", ".join(f"{OPTIONS.get(axis, axis)} {sizes[axis]}" for axis in axes)
            raise Refused(f"{_of(row, name, one)} has the shape {want_shape} for {told}; the file's is {one.shape}")
    return sizes


def _solve(row: Layout, arrays: Files, axis: str, known: Sizes, dtype: str) -> list[int]:
    """The size of an axis, where the shapes leave one only."""
    some = _solutions(row, arrays, axis, known, dtype)
    fits = set.intersection(*some) if some else set()
    return list(fits) if len(fits) == 1 else []


def _solutions(row: Layout, arrays: Files, axis: str, known: Sizes, dtype: str) -> list[set[int]]:
    """Sizes of an axis that fit, for each dimension of each array that depends on it alone."""
    found = [
        _fitting(row, name, i, length, axis, known, dtype)
        for name, one in arrays.items()
        for i, length in enumerate(one.shape)
    ]
    return [one for one in found if one is not None]


def _fitting(row: Layout, buffer: str, index: int, length: int, axis: str, known: Sizes, dtype: str) -> set[int] | None:
    """Sizes of an axis that give a dimension its length; None where it depends on another unknown one, or not on it."""
    open_axes = {one for part in row.parts for one in part.axes} - set(known)
    trial = {**dict.fromkeys(open_axes, TRIAL), **known}

    def at(**other: int) -> int:
        return row.shape(buffer, {**trial, **other}, dtype)[index]

    base = at()
    moves = {one for one in open_axes if at(**{one: 2 * TRIAL}) != base}
    if moves != {axis}:
        return None
    slope = Fraction(at(**{axis: 2 * TRIAL}) - base, TRIAL)
    most = round(TRIAL + (length - base) / slope) + 2
    found = set()
    for size in range(most, max(0, most - NEAR), -1):
        try:
            have = at(**{axis: size})
        except LineError:
            continue
        if have < length:
            break
        if have == length:
            found.add(size)
    return found


def _lines(row: Layout) -> str:
    return f"{row.name} ({' and '.join(dict.fromkeys(of.line for of in row.fields.values()))})"


def _of(row: Layout, buffer: str, one: Stored) -> str:
    lines = " and ".join(of.line for name, of in row.fields.items() if (of.buffer or name) == buffer)
    return f"{one.name}: {buffer} of {row.name} ({lines})"


def _names(arrays: Files) -> str:
    return ", ".join(dict.fromkeys(one.name for one in arrays.values()))


# --- conversion


@dataclass(frozen=True)
class Conversion:
    """What is converted to what; its pieces share no buffer and come one after another."""

    a: Layout
    b: Layout
    sizes: Sizes
    dtype: str

    @cached_property
    def pieces(self) -> list[Tiling]:
        """Each in tiles of its own."""
        return [tiling(a, b, self.sizes, self.dtype) for a, b in components(self.a, self.b)]

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], DType]]:
        """Buffer -> shape and type of its array in the second row."""
        row = self.b
        return {one: (row.shape(one, self.sizes, self.dtype), row.word_of(one, self.dtype)) for one in row.buffers}

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes that are read and written."""
        a, b = (sum(row.num_bytes(one, self.sizes, self.dtype) for one in row.buffers) for row in (self.a, self.b))
        return a, b

    def run(
        self,
        source: Files,
        target: Files,
        *,
        limit: int = LIMIT,
        workers: int | None = None,
        drop_padding: bool = False,
        tell: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Convert, a few tiles at once. When it returns or raises, nothing is read or written any more.

        source         buffer -> its bytes in the first row
        target         in the second, all zeros
        limit          bytes of memory for the tiles of both rows that are in flight
        workers        tiles at once, where the limit allows; if not given one a processor, at most WORKERS
        drop_padding   do not look whether padding of the source holds anything
        tell           called with the bytes read of each tile when it and all before it are done
        Raises Refused for padding that is not zero, and for a limit below the least tile.
        """
        most = workers or min(WORKERS, os.cpu_count() or 1)
        plans = [(piece, *_shares(piece, limit, most)) for piece in self.pieces]
        for piece, steps, count in plans:
            _side_by_side(_Mover(piece, steps, source, target, drop_padding=drop_padding), count, tell)


def _shares(plan: Tiling, limit: int, workers: int) -> tuple[Steps, int]:
    """The tiles that so many workers, or as many as the limit allows, have room for side by side; how many that is."""
    count = max(1, min(workers, limit // plan.least))
    return plan.steps(limit // count), count


def _side_by_side(mover: _Mover, workers: int, tell: Callable[[int], None]) -> None:
    """Move every tile, and tell of each in order: so the first that is refused is the one that is named."""
    ahead: deque[Future[int]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for tile in mover.plan.tiles(mover.steps):
            if len(ahead) == 2 * workers:
                tell(ahead.popleft().result())
            ahead.append(pool.submit(mover.move, tile))
        while ahead:
            tell(ahead.popleft().result())


class _Mover:
    """Moves the tiles of a piece, each thread in memory of its own; reading, moving and writing leave Python's lock."""

    def __init__(self, plan: Tiling, steps: Steps, source: Files, target: Files, *, drop_padding: bool) -> None:
        self.plan, self.steps, self.files = plan, steps, (source, target)
        self.checks = not drop_padding and has_padding(plan.a, plan.sizes, plan.dtype)
        self.moves: dict[tuple[int, int], Move] = {}
        self.own = threading.local()

    def move(self, tile: Tile) -> int:
        """Read, move and write a tile; bytes read."""
        have, want = self._memory()
        for piece in self.plan.inside(tile, self.steps):
            if have.is_first(piece, tile):
                have.read(tile if have.holds_tile else piece)
            move = self._move_of(piece)
            move.run(have.at(piece, tile), want.at(piece, tile))
            if self.checks:
                move.clear(have.at(piece, tile))
                if have.is_last(piece, tile):
                    have.require_zeros(tile if have.holds_tile else piece)
            if want.is_last(piece, tile):
                want.write(tile if want.holds_tile else piece)
        return have.size_of(tile)

    def _memory(self) -> tuple[_Memory, _Memory]:
        """Of this thread."""
        if not hasattr(self.own, "memory"):
            self.own.memory = [_Memory(self.plan, which, files, self.steps) for which, files in enumerate(self.files)]
        have, want = self.own.memory
        return have, want

    def _move_of(self, piece: Tile) -> Move:
        """How a piece is moved: planned once for each shape."""
        shape = (piece.pages, piece.slots)
        if shape not in self.moves:
            plan, (a, b) = self.plan, self.steps.rooms
            rooms = plan.sizes_of(a), plan.sizes_of(b)
            self.moves[shape] = move(plan.a, plan.b, plan.sizes_of(piece), plan.dtype, rooms)
        return self.moves[shape]


class _Memory:
    """What is in memory of one row: a tile, or the piece of it that is moved."""

    def __init__(self, plan: Tiling, which: int, files: Files, steps: Steps) -> None:
        self.name = (plan.a, plan.b)[which].name
        self.grids, self.room, self.files = plan.grids[which], steps.rooms[which], files
        self.holds_tile = self.room.slots >= steps.slots
        self.data = {name: np.zeros(grid.size(self.room), np.uint8) for name, grid in self.grids.items()}

    def is_first(self, piece: Tile, tile: Tile) -> bool:
        """Whether what it holds begins with a piece."""
        return not self.holds_tile or piece.slot == tile.slot

    def is_last(self, piece: Tile, tile: Tile) -> bool:
        """Whether what it holds ends with a piece."""
        return not self.holds_tile or piece.slot + piece.slots == tile.slot + tile.slots

    def at(self, piece: Tile, tile: Tile) -> Cache:
        """The buffers from a piece on."""
        slot = piece.slot - tile.slot if self.holds_tile else 0
        return {name: data[slot * self.grids[name].unit :] for name, data in self.data.items()}

    def read(self, tile: Tile) -> None:
        """Fetch the runs of a tile."""
        for name, grid in self.grids.items():
            for start, at, length in grid.runs(tile, self.room):
                self.files[name].read(start, self.data[name][at : at + length])

    def write(self, tile: Tile) -> None:
        """Write the runs of a tile."""
        for name, grid in self.grids.items():
            for start, at, length in grid.runs(tile, self.room):
                self.files[name].write(start, self.data[name][at : at + length])

    def size_of(self, tile: Tile) -> int:
        """Bytes of a tile in the files."""
        return sum(length for grid in self.grids.values() for _, _, length in grid.runs(tile, self.room))

    def require_zeros(self, tile: Tile) -> None:
        """Nothing is left in memory. Raises Refused, naming the first byte that is."""
        for name, data in self.data.items():
            if data.any():
                byte = int(np.argmax(data != 0))
                at = self.grids[name].offset(byte, tile, self.room)
                raise Refused(
                    f"{self.files[name].name}: byte {at} of {name} is padding in {self.name} but holds "
                    f"{data[byte]:#04x}, which would be lost; --drop-padding drops it"
                )


def plain_copy(source: Files, target: Path) -> float:
    """Seconds that the same bytes take to be read and written as they are; the copy is removed."""
    buffer = np.zeros(COPY_CHUNK, np.uint8)
    size = sum(one.nbytes for one in source.values())
    try:
        start = time.perf_counter()
        with FileIO(target, "xb") as file:
            file.truncate(size)  # as a conversion does
            copy, done = Stored(str(target), (size,), buffer.dtype, file, 0), 0
            for one in source.values():
                for at in range(0, one.nbytes, COPY_CHUNK):
                    data = buffer[: min(COPY_CHUNK, one.nbytes - at)]
                    one.read(at, data)
                    copy.write(done, data)
                    done += data.nbytes
        return time.perf_counter() - start
    finally:
        target.unlink(missing_ok=True)
