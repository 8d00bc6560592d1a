"""Cases that tell rows apart, from what an offer allows: sizes in which the most candidates differ, the smallest first.

Sizes that are all different and above 1 keep axes from being taken for each other. A contiguous cache has one page a
sequence; of any other the first sequence has two whole pages and a third sequence one token, so that slots, pages and
columns of the table are all seen. Page numbers are drawn until no simple wrong table gives the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np

from kvconform.oracles import candidates
from kvconform.oracles.probes import Units
from kvconform.oracles.wrong_tables import readings
from kvconform.specs.case import Case
from kvconform.specs.offers import holds
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.paged import PagedInputs
from kvconform.specs.strategies import POOL, SIZE_OF, Cell

SIZES = (*SIZE_OF, "group")
"""Axes of a Case whose values are chosen; all others keep their simplest one."""

TRIED = 12
"""How many of the cheapest sizes that admit the most candidates are looked at closely."""

LARGEST = 1 << 21
"""Bits of the largest cache that is looked at closely, unless every one is larger."""

SEEDS = 64
"""Page tables that are drawn, at most, to find a telling one."""


def probe_cases(cell: Cell) -> Iterator[Case]:
    """Yield Cases of a cell, those first that tell the most candidates apart.

    Raises OfferError where the offer leaves nothing to draw.
    """
    sizes = _shapes(cell)
    rough = sorted(sizes, key=lambda shape: _rough(cell, shape))[:TRIED]
    for shape in sorted(rough, key=lambda shape: -_told_apart(_case(cell, shape))):  # a stable sort keeps the cheap first
        yield _telling(_case(cell, shape))


def tells_apart(case: Case, names: tuple[str, ...]) -> bool:
    """Whether some of these rows differ in a Case."""
    sizes = PagedInputs(case).sizes
    units = Units.of(case.row, sizes, case.dtype)
    rows = [row for row in candidates.candidates(case.row, sizes, case.dtype) if row.name in names]
    return len(rows) < len(names) or len({candidates.layout_key(units, row) for row in rows}) > 1


def _shapes(cell: Cell) -> list[dict[str, Any]]:
    if cell.static:
        return cell.geometries()[::-1]
    axes = [axis for axis in SIZES if axis in OPERATIONS[cell.op].case_axes]
    seen = [axis for axis in axes if SIZE_OF.get(axis, "head") in _axes(cell)]
    choices = {axis: cell.allowed(axis) if axis in seen else cell.allowed(axis)[:1] for axis in axes}
    return [dict(zip(choices, some, strict=True)) for some in product(*choices.values())]


def _axes(cell: Cell) -> set[str]:
    return {axis for part in cell.row.parts for axis in part.axes}


def _case(cell: Cell, shape: Mapping[str, Any]) -> Case:
    seen = OPERATIONS[cell.op].case_axes
    values: dict[str, Any] = {axis: cell.allowed(axis)[0] for axis in seen if axis in POOL and axis not in SIZES}
    values |= {axis: value for axis, value in shape.items() if axis in seen}
    size, capacity, num_seqs = values["page_size"], values.get("capacity", 0), shape.get("num_seqs", 3)
    room = size * (1 if cell.row.contiguous else capacity or 2)
    wanted = [room, min(room, size + 1), 1][:num_seqs]
    if cell.op == "paged_decode":  # each sequence is read at every length
        wanted = [room] * num_seqs
    lens = tuple(_length(cell, n, room) for n in wanted)
    return Case(op=cell.op, layout=cell.layout, dtype=cell.dtype, kv_lens=lens, **values)


def _length(cell: Cell, wanted: int, room: int) -> int:
    """The greatest length up to `wanted` that is offered, else the least one."""
    fits = [n for n in range(1, room + 1) if lengths_hold(cell, n)]
    return max([n for n in fits if n <= wanted], default=min(fits, default=wanted))


def lengths_hold(cell: Cell, length: int) -> bool:
    """Whether an offer takes sequences of a length."""
    return all(holds(predicate, length) for predicate in cell.predicates("kv_lens"))


def _rough(cell: Cell, shape: Mapping[str, Any]) -> tuple[int, ...]:
    """What makes sizes telling at first sight: few candidates lost, few sizes alike or 1, a small cache."""
    case = _case(cell, shape)
    sizes = PagedInputs(case).sizes
    axes = _axes(cell)
    told = sorted([sizes[axis] for axis in axes if axis not in case.row.fixed] + [sizes["page"]])
    alike = told.count(1) + sum(a == b for a, b in pairwise(told))
    if "group" in shape:
        alike += (case.group == 1) + (case.group == case.num_kv_heads)
    bits = sum(8 * case.row.num_bytes(buffer, sizes, case.dtype) for buffer in case.row.buffers)
    found = candidates.candidates(case.row, sizes, case.dtype)
    return bits > LARGEST, -len(found), alike, bits * case.group


def _told_apart(case: Case) -> int:
    """How many groups of candidates a Case tells apart."""
    sizes = PagedInputs(case).sizes
    units = Units.of(case.row, sizes, case.dtype)
    return len({candidates.layout_key(units, row) for row in candidates.candidates(case.row, sizes, case.dtype)})


def _telling(case: Case) -> Case:
    """The Case with a page table that the most wrong readings of a table do not give too."""
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

    most = max(differing(seed) for seed in range(SEEDS))
    return replace(case, seed=next(seed for seed in range(SEEDS) if differing(seed) == most))


def positions(case: Case, cell: Cell) -> list[int]:
    """Positions of a sequence that paged_decode is asked about: keys that two lengths in turn differ by."""
    room, size = case.kv_lens[0], case.page_size
    powers = [1 << i for i in range(max(1, room.bit_length()))]
    wanted = {0, 1, 2, 3, *powers, size // 2, size - 1, size, size + 1}
    return sorted(
        n
        for n in wanted
        if n < room and lengths_hold(cell, n + 1) and (n == 0 or lengths_hold(cell, n))
    )


def dims(case: Case) -> list[int]:
    """Dims of K that paged_decode is asked about: enough to show where an axis is cut."""
    last = case.head_dim - 1
    return sorted({0, last, *(1 << i for i in range(math.ceil(math.log2(case.head_dim))) if 1 << i <= last)})
