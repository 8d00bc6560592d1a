"""A cache of one row becomes a cache of another: every place keeps its bits, only where it lies changes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kvconform.specs.dtypes import width
from kvconform.specs.formula import sizes_text
from kvconform.specs.row import Layout, Sizes
from kvconform.specs.strides import ByIndex, Cache, Pair, Strided, coordinates, copies


class Refused(ValueError):
    """A conversion that would lose bytes, or that cannot be done. One sentence."""


def require_same_parts(a: Layout, b: Layout) -> None:
    """Both rows hold the same parts, each in a place of its own.

    Raises Refused, naming what one holds and the other does not.
    """
    if a is b:
        return
    for row in (a, b):
        if row.pairs_pages:
            raise Refused(
                f"{row.name} keeps K and V in one pool: which page holds which is said by its {row.table} table alone"
            )
        if row.holds == "elements":
            raise Refused(f"{row.name} is a byte format: another format means other values by the same codes")
    for have, lack, fate in ((a, b, "they would be lost"), (b, a, "there is nothing to fill them with")):
        names = {part.name for part in lack.parts}
        missing = [part.name for part in have.parts if part.name not in names]
        if missing:
            raise Refused(f"{have.name} holds {' and '.join(missing)}, {lack.name} does not: {fate}")
    for part in a.parts:
        if part.axes != b.part(part.name).axes:
            axes, others = " ".join(part.axes), " ".join(b.part(part.name).axes)
            raise Refused(f"{part.name} has the axes {axes} in {a.name}, but {others} in {b.name}")


def require_same_values(a: Layout, b: Layout, sizes: Sizes, dtype: str) -> None:
    """Both rows can be built in these sizes, and hold each part in the same type and as many values.

    Raises Refused, naming the part and how it differs.
    """
    for row in (a, b):
        if flaw := row.flaw(sizes, dtype):
            raise Refused(f"{row.name} cannot be built for {sizes_text(row, sizes)} in {dtype}: {flaw}")
    for part in a.parts:
        other = b.part(part.name)
        types = a.dtype_of(part, dtype), b.dtype_of(other, dtype)
        if types[0] != types[1]:
            raise Refused(
                f"{part.name} is {types[0]} in {a.name}, but {types[1]} in {b.name}: bits are moved, never rounded"
            )
        for axis in part.axes:
            steps = a.step(part, axis, sizes, dtype), b.step(other, axis, sizes, dtype)
            if steps[0] != steps[1]:
                raise Refused(
                    f"{part.name} holds one value for every {steps[0]} of {axis} in {a.name}, but for every {steps[1]} "
                    f"in {b.name}"
                )


@dataclass(frozen=True)
class Move:
    """All parts of a cache of some sizes, from one row to another."""

    copies: tuple[Strided | ByIndex, ...]

    def run(self, source: Cache, target: Cache) -> None:
        """Move every part; padding of the target is left as it is."""
        for one in self.copies:
            one.copy(source, target)

    def clear(self, source: Cache) -> None:
        """Make every part 0 in the source: what is left is padding."""
        for one in self.copies:
            one.clear(source)


def move(a: Layout, b: Layout, sizes: Sizes, dtype: str, rooms: tuple[Sizes, Sizes] | None = None) -> Move:
    """Plan a conversion.

    rooms   the sizes of the caches in memory, where they hold more than is moved
    Raises Refused where it would lose bytes.
    """
    require_same_parts(a, b)
    require_same_values(a, b, sizes, dtype)
    pair = Pair((a, b), sizes, rooms or (sizes, sizes), dtype)
    return Move(tuple(one for part in a.parts for one in copies(pair, part.name)))


def components(a: Layout, b: Layout) -> list[tuple[Layout, Layout]]:
    """The rows in pieces that share no buffer: each is converted alone, in a smaller part of memory."""
    pieces: list[tuple[Layout, Layout]] = []
    left = {part.name for part in a.parts}
    while left:
        names = {min(left)}
        while more := _beside(a, names) | _beside(b, names):
            names |= more
        piece = _only(a, names)
        pieces.append((piece, piece if a is b else _only(b, names)))
        left -= names
    return pieces


def _beside(row: Layout, names: set[str]) -> set[str]:
    """Other parts that lie in a buffer with some of these."""
    buffers = {row.buffer_of(row.part(name)) for name in names}
    return {part.name for part in row.parts if row.buffer_of(part) in buffers} - names


def _only(row: Layout, names: set[str]) -> Layout:
    """A row without the fields of other parts."""
    fields = {part.field for part in row.parts if part.name in names}
    return replace(row, fields={name: one for name, one in row.fields.items() if name in fields})


def has_padding(row: Layout, sizes: Sizes, dtype: str) -> bool:
    """Whether some bit of the row's buffers belongs to no part."""
    held = dict.fromkeys(row.buffers, 0)
    for part in row.parts:
        if row.pairs_pages and part.side:
            continue  # K and V of one pool are the same places
        places = math.prod(len(one) for one in coordinates(row, part, sizes, dtype))
        held[row.buffer_of(part)] += places * width(row.dtype_of(part, dtype))
    return any(held[buffer] != 8 * row.num_bytes(buffer, sizes, dtype) for buffer in row.buffers)
