"""Which rows an implementation can have taken a cache for, and which of them no cache tells apart.

A candidate holds the same parts in the same types and lies in the same buffers, or, where there is one buffer only, in
its own one behind another. Rows are the same places either because their lines are, which holds in every size, or
because they are in every size that is tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from itertools import groupby, product

import numpy as np

from kvconform.oracles.diagnosis.codes import Units
from kvconform.specs import compare, pattern
from kvconform.specs.data import Array
from kvconform.specs.layouts import LAYOUTS, Layout, Part
from kvconform.specs.pattern import LineError
from kvconform.specs.row import Sizes

SIZES = {"slot": (4, 3, 8, 32, 128, 1), "head": (3, 2, 4, 1), "dim": (24, 96, 64, 128, 256), "subspace": (3, 1)}
SIZES |= {"dim_v": (40, 64)}
"""Sizes that are tried of an axis where a row does not fix it, those first in which most rows differ."""

PAGES = 2


@cache
def holding_the_same(name: str, dtype: str) -> tuple[Layout, ...]:
    """Rows that hold the parts of a row in the same types, in the same buffers or in its one; those nearest first."""
    row = LAYOUTS[name]

    def parts(other: Layout) -> list[tuple[str, tuple[str, ...], str]]:
        return sorted((part.name, part.axes, other.dtype_of(part, dtype)) for part in other.parts)

    found = [
        other
        for other in LAYOUTS.values()
        if (other.holds, other.pairs_pages, parts(other)) == (row.holds, row.pairs_pages, parts(row))
        and dtype in other.dtypes
        and (other.buffers == row.buffers or len(row.buffers) == 1)
    ]
    return tuple(sorted(found, key=lambda o: (o is not row, o.buffers != row.buffers, o.contiguous != row.contiguous)))


def candidates(row: Layout, sizes: Sizes, dtype: str) -> list[Layout]:
    """Rows that can be built within the buffers of a row: the row itself, then those nearest to it."""
    return list(_candidates(row.name, tuple(sizes.items()), dtype))


@cache
def _candidates(name: str, sizes: tuple[tuple[str, int], ...], dtype: str) -> tuple[Layout, ...]:
    return tuple(other for other in holding_the_same(name, dtype) if fits(LAYOUTS[name], other, dict(sizes), dtype))


def fits(row: Layout, other: Layout, sizes: Sizes, dtype: str) -> bool:
    """Whether another row of the same parts can be built, and is not larger than the buffers of this one."""
    key = tuple(sorted(sizes.items()))
    have, want = (_bytes(one.name, key, dtype) for one in (row, other))
    if not have or not want or any(sizes.get(axis, size) != size for axis, size in other.fixed.items()):
        return False
    if _shares(row.name) and _steps(row, row, sizes, dtype) != _steps(other, row, sizes, dtype):
        return False
    return all(w <= h for w, h in zip(want, have, strict=True)) if len(want) == len(have) else sum(want) <= sum(have)


@cache
def _bytes(name: str, sizes: tuple[tuple[str, int], ...], dtype: str) -> tuple[int, ...]:
    """The size of each buffer; none where the row cannot be built."""
    row = LAYOUTS[name]
    try:
        return tuple(row.num_bytes(buffer, dict(sizes), dtype) for buffer in row.buffers)
    except LineError:
        return ()


@cache
def _shares(name: str) -> bool:
    """Whether some elements of a row have one place in common."""
    return any(cut.shared for one in LAYOUTS[name].fields.values() for cut in pattern.parse(one.line).steps[0].left)


def _steps(row: Layout, claimed: Layout, sizes: Sizes, dtype: str) -> list[int]:
    """How many neighbours share a place, along each axis of each part."""
    return [row.step(row.part(part.name), axis, sizes, dtype) for part in claimed.parts for axis in part.axes]


def every_place(units: Units, row: Layout, part: Part) -> Array:
    """The first unit of every place of a part, where a row has them: [page, slot, *token axes]."""
    at = units.row.everywhere(units.row.part(part.name), units.sizes, units.dtype)
    places = units.places(row, row.part(part.name), dict(zip(part.axes, at, strict=True)))
    return np.broadcast_to(places, np.broadcast_shapes(*(index.shape for index in at)))


@dataclass(frozen=True)
class Source:
    """A part as a row has it: what elements may have been taken for."""

    units: Units
    row: Layout
    part: Part

    @cached_property
    def _places(self) -> tuple[Array, Array, tuple[int, ...]]:
        places = every_place(self.units, self.row, self.part)
        order = np.argsort(places, axis=None)
        return places.ravel()[order], order, places.shape

    def coordinates(self, unit: Array) -> dict[str, Array] | None:
        """Axis -> the coordinate of what the row has in each unit [n]; None where it has nothing in some."""
        places, order, shape = self._places
        found = np.searchsorted(places, unit).clip(max=len(places) - 1)
        if (places[found] != unit).any():
            return None
        index = np.unravel_index(order[found], shape)
        axes = [axis for axis in self.part.axes if axis in ("page", "slot", *self.row.token_axes(self.part))]
        steps = [self.row.step(self.part, axis, self.units.sizes, self.units.dtype) for axis in axes]
        return {axis: i * step for axis, i, step in zip(axes, index, steps, strict=True)}


def layout_key(claimed: Layout, row: Layout, sizes: Sizes, dtype: str) -> tuple[bytes, ...]:
    """Digests of all places of each part, in the buffers of a claimed row: rows of one key are not told apart."""
    return _key(row.name, len(claimed.buffers) == 1, tuple(sorted(sizes.items())), dtype)


@cache
def _key(name: str, is_joined: bool, sizes: tuple[tuple[str, int], ...], dtype: str) -> tuple[bytes, ...]:
    row, table = LAYOUTS[name], dict(sizes)
    found = compare.places if is_joined else Layout.places  # from the first buffer on, or from its own
    parts = sorted(row.parts, key=lambda part: part.name)
    return tuple(sha256(found(row, part, table, dtype).tobytes()).digest() for part in parts)


@cache
def same_places(names: tuple[str, str], claimed: str, dtype: str) -> str:
    """Why two candidates have every element in the same place whatever the sizes; empty where they do not.

    claimed   the row in whose buffers they lie
    """
    row, (a, b) = LAYOUTS[claimed], (LAYOUTS[name] for name in names)
    forms = [_form(one, row) for one in (a, b)]
    if forms[0] is not None and forms[0] == forms[1]:
        told = dict.fromkeys(forms[0].values())
        where = "".join(f", where {axis} is 1" for axis, size in row.fixed.items() if size == 1)
        return f"both are {' and '.join(' '.join(form) for form in told)}, slowest first, with nothing padded{where}"
    tried = 0
    for sizes in _sizes(row, a, b):
        if all(fits(row, one, sizes, dtype) for one in (row, a, b)):
            tried += 1
            if layout_key(row, a, sizes, dtype) != layout_key(row, b, sizes, dtype):
                return ""
    return f"the same places in each of the {tried} sizes tried in which both can be built" if tried else ""


def _sizes(*rows: Layout) -> list[Sizes]:
    fixed = {axis: size for row in rows for axis, size in row.fixed.items()}
    axes = {axis: (fixed[axis],) if axis in fixed else SIZES[axis] for axis in (*SIZES, *fixed)}
    axes = {axis: sizes for axis, sizes in axes.items() if any(axis in part.axes for part in rows[0].parts)}
    return [{"page": PAGES, **dict(zip(axes, some, strict=True))} for some in product(*axes.values())]


def _form(row: Layout, claimed: Layout) -> dict[str, tuple[str, ...]] | None:
    """Part -> the axes of its line, slowest first, wherever that says all of where the part lies; else None."""
    lines = {part.name: pattern.parse(row.fields[part.field].line) for part in row.parts}
    if row.pad or any(len(line.steps) > 1 or len(line.segments) > 1 for line in lines.values()):
        return None
    forms = {name: _flat(line, {**row.fixed, **claimed.fixed}) for name, line in lines.items()}
    if row.buffers == claimed.buffers:
        return forms
    one = set(forms.values())
    return {name: ("kv", *next(iter(one))) for name in forms} if len(one) == 1 and len(row.buffers) == 2 else None


def _flat(line: pattern.Line, fixed: Sizes) -> tuple[str, ...]:
    """Physical axes; parts that lie in the order of the axis they are cut from are that axis again."""
    order = [axis for group in line.steps[0].dims for axis in group]
    for cut in line.steps[0].left:
        at = order.index(cut.parts[0]) if cut.parts[0] in order else len(order)
        if tuple(order[at : at + len(cut.parts)]) == cut.parts:
            order[at : at + len(cut.parts)] = [cut.axis]
    return tuple(axis for axis, _ in groupby(order) if fixed.get(axis) != 1)
