"""Any two rows compared: same bytes and shape, same bytes under another shape, or different from this coordinate on.

Both rows are asked for the address of every element of K and of V. A row with several fields is taken as their buffers
one after another, in the row's order, so a row with fields k and v can be compared with one that fuses them. How the
bytes are then addressed as an array, which shapes and slices say, is a matter of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.formula import sizes_text
from kvconform.specs.row import POSITIONS, Layout, Part, Sizes

SAME = "same bytes and shape"
RESHAPED = "same bytes under another shape"
DIFFERENT = "different"

Shape = tuple[int, ...]


class IncomparableError(ValueError):
    """Two rows that hold different things, or of which one cannot be built; the text says which."""


@dataclass(frozen=True)
class Difference:
    """One element that the rows put in different places.

    part, at   K, V or what belongs to either, and the coordinate on each logical axis
    bits       where the left and the right row have it, from the start of their buffers
    """

    part: str
    at: Mapping[str, int]
    bits: tuple[int, int]

    def __str__(self) -> str:
        places = " against ".join(f"byte {bit // 8}" + f" bit {bit % 8}" * bool(bit % 8) for bit in self.bits)
        return f"{self.part}: {', '.join(f'{axis} {i}' for axis, i in self.at.items())}: {places}"


@dataclass(frozen=True)
class Comparison:
    """What became of two rows in one geometry; of each pair the left row's comes first.

    shapes          buffer -> shape of its array
    num_bytes       size of all buffers together
    num_elements    elements of K and V that were looked at
    num_differing   those that the rows put in different places
    first           the first of them in the order K before V, then the logical axes
    """

    names: tuple[str, str]
    shapes: tuple[Mapping[str, Shape], Mapping[str, Shape]]
    num_bytes: tuple[int, int]
    num_elements: int
    num_differing: int
    first: Difference | None

    @property
    def same_bytes(self) -> bool:
        """Whether one buffer can be read as either row."""
        return self.num_differing == 0 and self.num_bytes[0] == self.num_bytes[1]

    @property
    def relation(self) -> str:
        """SAME, RESHAPED or DIFFERENT."""
        if not self.same_bytes:
            return DIFFERENT
        left, right = (tuple(shapes.values()) for shapes in self.shapes)
        return SAME if left == right else RESHAPED

    def __str__(self) -> str:
        left, right = (", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) for shapes in self.shapes)
        text = f"{self.names[0]} and {self.names[1]}: {self.relation}: {left} against {right}"
        if len(self.shapes[0]) != len(self.shapes[1]):
            split = max(self.shapes, key=len)
            text += f", where the buffers of {' and '.join(split)} lie one behind the other"
        if self.first:
            text += f"; {self.num_differing} of {self.num_elements} elements, first {self.first}"
        if self.num_bytes[0] != self.num_bytes[1]:
            text += f"; {self.num_bytes[0]} bytes against {self.num_bytes[1]}"
        return text


def compare(left: Layout, right: Layout, sizes: Sizes, dtype: str) -> Comparison:
    """Compare two rows in one geometry, element by element.

    sizes   size of each logical axis
    Raises IncomparableError unless both rows hold the same parts, and can be built.
    """
    for row in (left, right):
        flaw = row.flaw(sizes, dtype)
        if flaw:
            raise IncomparableError(f"{row.name} cannot be built for {sizes_text(row, sizes)} in {dtype}: {flaw}")
    if holds(left, sizes, dtype) != holds(right, sizes, dtype):
        raise IncomparableError(f"{_told(left)}, {_told(right)}")
    first, num_elements, num_differing = None, 0, 0
    for part in left.parts:
        a, b = (places(row, row.part(part.name), sizes, dtype) for row in (left, right))
        differing = np.argwhere(a != b)
        num_elements, num_differing = num_elements + a.size, num_differing + len(differing)
        if len(differing) and first is None:
            at = tuple(int(i) for i in differing[0])
            first = Difference(part.name, _named(left, part, at, sizes, dtype), (int(a[at]), int(b[at])))
    shapes = [{name: row.shape(name, sizes, dtype) for name in row.buffers} for row in (left, right)]
    num_bytes = [sum(row.num_bytes(name, sizes, dtype) for name in row.buffers) for row in (left, right)]
    return Comparison(
        names=(left.name, right.name),
        shapes=(shapes[0], shapes[1]),
        num_bytes=(num_bytes[0], num_bytes[1]),
        num_elements=num_elements,
        num_differing=num_differing,
        first=first,
    )


def holds(row: Layout, sizes: Sizes, dtype: str) -> tuple[tuple[Any, ...], ...]:
    """What a row holds, for two rows to be compared: of each part its name, axes, type and places."""
    parts = [(p.name, p.axes, row.dtype_of(p, dtype), row.places(p, sizes, dtype).shape) for p in row.parts]
    return (*sorted(parts), (row.pairs_pages,))


def _told(row: Layout) -> str:
    by: dict[tuple[str, ...], list[str]] = {}
    for part in row.parts:
        kind = f" in {row.fields[part.field].dtype}" if row.fields[part.field].dtype else ""
        by.setdefault(part.axes, []).append(part.name + kind)
    told = "; ".join(f"{' and '.join(names)} by {' '.join(axes)}" for axes, names in by.items())
    return f"{row.name} holds {told}" + ", K and V on pages of their own" * row.pairs_pages


def _named(row: Layout, part: Part, at: tuple[int, ...], sizes: Sizes, dtype: str) -> dict[str, int]:
    axes = [axis for axis in part.axes if axis in (*POSITIONS, *row.token_axes(part))]
    return {axis: i * row.step(part, axis, sizes, dtype) for axis, i in zip(axes, at, strict=True)}


def places(row: Layout, part: Part, sizes: Sizes, dtype: str) -> Array:
    """int64: the bit of every place of a part, from the start of all buffers one behind another."""
    start = 0
    for name in row.buffers:
        if name == row.buffer_of(part):
            break
        start += 8 * row.num_bytes(name, sizes, dtype)
    return start + row.places(part, sizes, dtype)


def indices(row: Layout, part: Part, sizes: Sizes, dtype: str) -> tuple[Array, ...]:
    """Where a part lies in its buffer's array: one index array a dimension, each with the shape of its axes."""
    buffer = row.buffer_of(part)
    word = 8 * row.word_of(buffer, dtype).itemsize
    return np.unravel_index(row.places(part, sizes, dtype) // word, row.shape(buffer, sizes, dtype))


def slices(row: Layout, part: Part, sizes: Sizes, dtype: str) -> tuple[slice, ...] | None:
    """The slices that select a part from its buffer's array, one a dimension; None where no slices do."""
    shape = row.shape(row.buffer_of(part), sizes, dtype)
    found = []
    for index, size in zip(indices(row, part, sizes, dtype), shape, strict=True):
        seen = np.unique(index)
        steps = np.unique(np.diff(seen))
        if len(steps) > 1 or not len(seen):
            return None
        step = int(steps[0]) if len(steps) else 1
        found.append(slice(int(seen[0]), min(size, int(seen[-1]) + step), step))
    selected = math.prod(len(range(*one.indices(size))) for one, size in zip(found, shape, strict=True))
    return tuple(found) if selected == row.places(part, sizes, dtype).size else None


def spelled(selection: tuple[slice, ...], shape: Shape) -> str:
    """Slices as one writes them: `[:, :, 0::2, :]`."""
    return f"[{', '.join(_spelled(one, size) for one, size in zip(selection, shape, strict=True))}]"


def _spelled(one: slice, size: int) -> str:
    if one.step > 1:
        return f"{one.start}::{one.step}" if one.stop == size else f"{one.start}:{one.stop}:{one.step}"
    return f"{one.start or ''}:{one.stop if one.stop < size else ''}"
