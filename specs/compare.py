"""Any two rows compared: same bytes and shape, same bytes under another shape, or different from this coordinate on.

Both rows are asked for the address of every element of K and of V. A row with several fields is taken as their buffers
one after another, in the row's order, so a row with fields k and v can be compared with one that fuses them. How the
bytes are then addressed as an array, which shapes and slices say, is a matter of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvconform.specs.data import Array, grid
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.layouts import SIDE_NAMES, Layout

SAME = "same bytes and shape"
RESHAPED = "same bytes under another shape"
DIFFERENT = "different"

Shape = tuple[int, ...]
Sizes = Mapping[str, int]


class IncomparableError(ValueError):
    """Two rows that hold different things, or of which one cannot be built; the text says which."""


@dataclass(frozen=True)
class Difference:
    """One element that the rows put in different places.

    side, at   K or V, and the coordinate on each logical axis
    bits       where the left and the right row have it, from the start of their buffers
    """

    side: str
    at: Mapping[str, int]
    bits: tuple[int, int]

    def __str__(self) -> str:
        places = " against ".join(f"byte {bit // 8}" + f" bit {bit % 8}" * bool(bit % 8) for bit in self.bits)
        return f"{self.side}: {', '.join(f'{axis} {i}' for axis, i in self.at.items())}: {places}"


@dataclass(frozen=True)
class Comparison:
    """What became of two rows in one geometry; of each pair the left row's comes first.

    shapes          field -> shape of its array
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
    Raises IncomparableError unless both rows have the same axes and sides, and can be built.
    """
    if (left.axes, left.sides) != (right.axes, right.sides):
        raise IncomparableError(f"{_holds(left)}, {_holds(right)}")
    for row in (left, right):
        if not row.admits(sizes, dtype):
            raise IncomparableError(f"{row.name} cannot be built for {dict(sizes)} in {dtype}")
    places = [_places(row, sizes, dtype) for row in (left, right)]
    differing = np.argwhere(places[0] != places[1])
    first = None
    if len(differing):
        side, *at = (int(i) for i in differing[0])
        bits = (int(places[0][side, *at]), int(places[1][side, *at]))
        first = Difference(SIDE_NAMES[side], dict(zip(left.axes, at, strict=True)), bits)
    shapes = [{name: row.shape(name, sizes, dtype) for name in row.fields} for row in (left, right)]
    num_bytes = [sum(row.num_bytes(name, sizes, dtype) for name in row.fields) for row in (left, right)]
    return Comparison(
        names=(left.name, right.name),
        shapes=(shapes[0], shapes[1]),
        num_bytes=(num_bytes[0], num_bytes[1]),
        num_elements=places[0].size,
        num_differing=len(differing),
        first=first,
    )


def indices(row: Layout, side: int, sizes: Sizes, dtype: str) -> tuple[Array, ...]:
    """Where K or V lies in its field's array: one index array a dimension, each with the shape of the logical axes."""
    name, bits = row.address(side, _everywhere(row, sizes), sizes, dtype)
    shape = row.shape(name, sizes, dtype)
    return np.unravel_index(np.asarray(bits) // (8 * DTYPES[dtype].itemsize), shape)


def slices(row: Layout, side: int, sizes: Sizes, dtype: str) -> tuple[slice, ...] | None:
    """The slices that select K or V from its field's array, one a dimension; None where no slices do."""
    shape = row.shape(row.field_of(side), sizes, dtype)
    found = []
    for index, size in zip(indices(row, side, sizes, dtype), shape, strict=True):
        seen = np.unique(index)
        steps = np.unique(np.diff(seen))
        if len(steps) > 1 or not len(seen):
            return None
        step = int(steps[0]) if len(steps) else 1
        found.append(slice(int(seen[0]), min(size, int(seen[-1]) + step), step))
    selected = math.prod(len(range(*one.indices(size))) for one, size in zip(found, shape, strict=True))
    return tuple(found) if selected == math.prod(sizes[axis] for axis in row.axes) else None


def spelled(selection: tuple[slice, ...], shape: Shape) -> str:
    """Slices as one writes them: `[:, :, 0::2, :]`."""
    return f"[{', '.join(_spelled(one, size) for one, size in zip(selection, shape, strict=True))}]"


def _spelled(one: slice, size: int) -> str:
    if one.step > 1:
        return f"{one.start}::{one.step}" if one.stop == size else f"{one.start}:{one.stop}:{one.step}"
    return f"{one.start or ''}:{one.stop if one.stop < size else ''}"


def _holds(row: Layout) -> str:
    return f"{row.name} holds {' and '.join(SIDE_NAMES[side] for side in row.sides)} by {' '.join(row.axes)}"


def _everywhere(row: Layout, sizes: Sizes) -> tuple[Array, ...]:
    return grid(*(sizes[axis] for axis in row.axes))


def _places(row: Layout, sizes: Sizes, dtype: str) -> Array:
    """int64 [side, *axes]: bit of each element, from the start of all fields' buffers."""
    starts, end = {}, 0
    for name in row.fields:
        starts[name], end = end, end + 8 * row.num_bytes(name, sizes, dtype)
    shape = tuple(sizes[axis] for axis in row.axes)
    places = np.empty((len(row.sides), *shape), np.int64)
    for side in row.sides:
        name, bits = row.address(side, _everywhere(row, sizes), sizes, dtype)
        places[side] = starts[name] + np.asarray(bits)
    return places
