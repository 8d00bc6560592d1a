"""Which rows an implementation can have taken a cache for, and which of them no cache tells apart.

A candidate holds the same parts in the same types and lies in the same buffers, or, where there is one buffer only, in
its own one behind another. Rows are the same places either because their lines are, which holds in every size, or
because they are in every size that is tried.
"""

from __future__ import annotations

from functools import cache
from itertools import groupby, product

import numpy as np

from kvconform.oracles.probes import Units
from kvconform.specs import pattern
from kvconform.specs.layouts import LAYOUTS, Layout, Part
from kvconform.specs.pattern import LineError
from kvconform.specs.row import Sizes

SIZES = {"slot": (1, 2, 3, 4, 8, 32, 128), "head": (1, 2, 3, 4), "dim": (8, 24, 64, 96, 128, 256), "subspace": (1, 3)}
"""Sizes that are tried of an axis where a row does not fix it."""

PAGES = 2


@cache
def _alike(name: str, dtype: str) -> tuple[Layout, ...]:
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
    return [other for other in _alike(row.name, dtype) if fits(row, other, sizes, dtype)]


def fits(row: Layout, other: Layout, sizes: Sizes, dtype: str) -> bool:
    """Whether another row of the same parts can be built, and is not larger than the buffers of this one."""
    if other is row:
        return not row.flaw(sizes, dtype)
    try:
        have, want = ([one.num_bytes(buffer, sizes, dtype) for buffer in one.buffers] for one in (row, other))
        steps = [_steps(one, row, sizes, dtype) for one in (row, other)] if _shares(row.name) else [[], []]
    except LineError:
        return False
    if any(sizes.get(axis, size) != size for axis, size in other.fixed.items()) or steps[0] != steps[1]:
        return False
    return all(w <= h for w, h in zip(want, have, strict=True)) if len(want) == len(have) else sum(want) <= sum(have)


@cache
def _shares(name: str) -> bool:
    """Whether some elements of a row have one place in common."""
    return any(cut.shared for one in LAYOUTS[name].fields.values() for cut in pattern.parse(one.line).steps[0].left)


def _steps(row: Layout, claimed: Layout, sizes: Sizes, dtype: str) -> list[int]:
    """How many neighbours share a place, along each axis of each part."""
    return [row.step(row.part(part.name), axis, sizes, dtype) for part in claimed.parts for axis in part.axes]


def every_place(units: Units, row: Layout, part: Part) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The first unit of every place of a part, where a row has them: [page, slot, *token axes]."""
    at = units.row.everywhere(units.row.part(part.name), units.sizes, units.dtype)
    places = units.places(row, row.part(part.name), dict(zip(part.axes, at, strict=True)))
    return np.broadcast_to(places, np.broadcast_shapes(*(index.shape for index in at)))


def layout_key(units: Units, row: Layout) -> tuple[bytes, ...]:
    """All places of each part: rows that have the same key are not told apart in these sizes."""
    return tuple(every_place(units, row, part).tobytes() for part in units.row.parts)


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
            units = Units.of(row, sizes, dtype)
            tried += 1
            if layout_key(units, a) != layout_key(units, b):
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
    forms = {name: _flat(line, row.fixed | claimed.fixed) for name, line in lines.items()}
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
