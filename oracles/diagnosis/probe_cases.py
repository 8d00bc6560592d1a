"""Cases that tell rows apart, from what an offer allows: sizes in which the most candidates differ, the smallest first.

Sizes that are all different and above 2 keep axes from being taken for each other. A contiguous cache has one page a
sequence; of any other the first sequence has two whole pages and a third one a single token, so that slots, pages and
columns of the table are all seen. Page numbers are drawn until no simple wrong table gives the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np

from kvconform.oracles.diagnosis import candidates
from kvconform.oracles.diagnosis.wrong_tables import readings
from kvconform.specs.case import Case
from kvconform.specs.cells import POOL, SIZE_OF, Cell
from kvconform.specs.features import FEATURES
from kvconform.specs.layouts import LAYOUTS, SIDE_NAMES, Layout
from kvconform.specs.offers import holds
from kvconform.specs.operations import OPERATIONS, ROUNDED
from kvconform.specs.paged import PagedInputs
from kvconform.specs.pinned import pinned
from kvconform.specs.row import Sizes

PAGES = 5
"""Pages of the caches in which sizes are compared."""

CHEAPEST = 48
"""How many of the sizes that are most unlike each other are asked how many candidates they admit."""

TRIED = 8
"""How many of those that admit the most candidates are looked at closely."""

LARGEST = 1 << 21
"""Bits of the largest cache that is looked at closely, unless every one is larger."""

SEEDS = 16
"""Page tables that are drawn to find a telling one."""

Shape = tuple[tuple[str, int], ...]
"""Axes of a Case with their values."""


def observable_rows(op: str) -> tuple[Layout, ...]:
    """The layouts in which an operation shows what it uses: attention does where a token is one K and one V."""
    row = OPERATIONS[op]
    return tuple(one for one in row.layouts if one.is_plain or not row.rounds)


def observable_dtypes(op: str) -> tuple[str, ...]:
    """The types of a cache in which it does: attention in those that it computes in."""
    row = OPERATIONS[op]
    return tuple(dtype for dtype in row.dtypes if dtype in ROUNDED or not row.rounds)


def is_observable(cell: Cell) -> bool:
    """Whether an operation shows what it uses in a cell."""
    return cell.row in observable_rows(cell.op) and cell.dtype in observable_dtypes(cell.op)


def probe_cases(cell: Cell) -> Iterator[Case]:
    """Yield Cases of a cell, those first that tell the most candidates apart.

    Raises OfferError where the offer leaves nothing to draw.
    """
    seen = {axis for part in cell.row.parts for axis in part.axes}
    axes = [axis for axis in SIZE_OF if SIZE_OF[axis] in seen]
    if cell.static:
        shapes = {tuple((axis, shape[axis]) for axis in axes): shape for shape in cell.geometries()[::-1]}
        for sizes in _ranked(cell.layout, cell.dtype, tuple(shapes)):
            yield _telling(_case(cell, shapes[sizes]))
        return
    every = tuple(tuple(zip(axes, some, strict=True)) for some in product(*(_choices(cell, axis) for axis in axes)))
    for sizes in _ranked(cell.layout, cell.dtype, every):
        shape = dict(sizes)
        if "group" in OPERATIONS[cell.op].case_axes:
            groups = cell.allowed("group")
            shape["group"] = min(groups, key=lambda n: (n == 1, n == shape["num_kv_heads"], n))
        yield _telling(_case(cell, shape))


def _choices(cell: Cell, axis: str) -> list[int]:
    """Sizes that are allowed; where it is one, twice that too, since what is one piece of an axis hides its cut."""
    found = cell.allowed(axis)
    twice = 2 * found[0]
    offered = all(holds(predicate, twice) for predicate in cell.predicates(axis)) and cell.admits(axis, twice)
    return [*found, twice] if len(found) == 1 and offered else found


def tells_apart(case: Case, names: tuple[str, ...]) -> bool:
    """Whether some of these rows differ in a Case."""
    sizes = PagedInputs(case).sizes
    rows = [row for row in candidates.candidates(case.row, sizes, case.dtype) if row.name in names]
    return len({candidates.layout_key(case.row, row, sizes, case.dtype) for row in rows}) > 1


@cache
def _ranked(layout: str, dtype: str, shapes: tuple[Shape, ...]) -> list[Shape]:
    """The most telling sizes first, of the cheapest that admit the most candidates."""
    sizes = {shape: _sizes(layout, shape) for shape in shapes}
    cheap = sorted(shapes, key=lambda shape: _cost(layout, dtype, sizes[shape]))[:CHEAPEST]
    rough = sorted(cheap, key=lambda shape: -len(candidates.candidates(LAYOUTS[layout], sizes[shape], dtype)))[:TRIED]
    return sorted(rough, key=lambda shape: -_told_apart(layout, dtype, sizes[shape]))  # stable: the cheap ones first


def _sizes(layout: str, shape: Shape) -> Sizes:
    return {"page": PAGES, **{SIZE_OF[axis]: size for axis, size in shape}, **LAYOUTS[layout].fixed}


def _cost(layout: str, dtype: str, sizes: Sizes) -> tuple[int, ...]:
    """What speaks against sizes at first sight: none that can be built, many alike, a large cache."""
    row = LAYOUTS[layout]
    free = {axis for part in row.parts for axis in part.axes if axis not in row.fixed}
    told = sorted([len(SIDE_NAMES), *(sizes[axis] for axis in free)])
    alike = told.count(1) + sum(a == b for a, b in pairwise(told))
    if row.flaw(sizes, dtype):
        return 2, alike, 0
    bits = sum(8 * row.num_bytes(buffer, sizes, dtype) for buffer in row.buffers)
    return int(bits > LARGEST), alike, bits


def _told_apart(layout: str, dtype: str, sizes: Sizes) -> int:
    """How many groups of candidates sizes tell apart, by each part alone."""
    row = LAYOUTS[layout]
    if row.flaw(sizes, dtype):
        return 0
    keys = [candidates.layout_key(row, other, sizes, dtype) for other in candidates.candidates(row, sizes, dtype)]
    return sum(len(set(of_part)) for of_part in zip(*keys, strict=True))


def _case(cell: Cell, shape: Mapping[str, Any]) -> Case:
    seen = OPERATIONS[cell.op].case_axes
    free = [axis for axis in seen if axis in POOL and axis not in shape and axis not in FEATURES]
    values: dict[str, Any] = {axis: cell.allowed(axis)[0] for axis in free}
    values |= {axis: value for axis, value in shape.items() if axis in seen}
    size, num_seqs = values["page_size"], shape.get("num_seqs", 3)
    room = size * (1 if cell.row.contiguous else values.get("capacity") or 2)
    wanted = [room, min(room, size + 1), 1][:num_seqs]
    if cell.op == "paged_decode":  # each sequence is read at every length
        wanted = [room] * num_seqs
    lens = tuple(_length(cell, n, room) for n in wanted)
    return pinned(cell, kv_lens=lens, **values)


def _length(cell: Cell, wanted: int, room: int) -> int:
    """The greatest length up to `wanted` that is offered, else the least one."""
    fits = [n for n in range(1, room + 1) if _is_offered(cell, n)]
    return max([n for n in fits if n <= wanted], default=min(fits, default=wanted))


def _is_offered(cell: Cell, length: int) -> bool:
    return all(holds(predicate, length) for predicate in cell.predicates("kv_lens"))


@cache
def _telling(case: Case) -> Case:
    """The Case with a page table that the fewest wrong readings of a table agree with."""
    if case.row.contiguous:
        return case

    def differing(seed: int) -> int:
        x = PagedInputs(replace(case, seed=seed))
        seq, position = x.owners
        column = position // case.page_size
        return sum(
            not np.array_equal(pages, x.tables[side][seq, column])
            for side in case.row.sides
            for pages in readings(x, side, seq, column).values()
        )

    return replace(case, seed=max(range(SEEDS), key=differing))


def positions(case: Case, cell: Cell) -> list[int]:
    """Positions of a sequence that paged_decode is asked about: keys that two lengths in turn differ by."""
    room, size = case.kv_lens[0], case.page_size
    wanted = {0, 1, 2, size // 2, size - 1, size}
    found = [n for n in sorted(wanted) if n < room and _is_offered(cell, n + 1)]
    return [n for n in found if n == 0 or _is_offered(cell, n)]


def dims(case: Case) -> list[int]:
    """Dims of K that paged_decode is asked about: enough to show where an axis is cut."""
    powers = [1 << i for i in range(math.ceil(math.log2(case.head_dim)))]
    return sorted({0, *powers, case.head_dim - 1})
