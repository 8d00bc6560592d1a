"""Which row an implementation really uses, told from decodable probes: one sentence that a violation can carry.

A row is named when every element lies where that row has it. If several rows agree in one size, further sizes are
tried; rows that agree in all of them are named together, with the proof where there is one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from kvconform.oracles.diagnosis.candidates import same_places
from kvconform.oracles.diagnosis.observed import Call, Observed, observe
from kvconform.oracles.diagnosis.placement import Placement, placements
from kvconform.oracles.diagnosis.probe_cases import probe_cases, tells_apart
from kvconform.oracles.verdict import Violation
from kvconform.specs.case import Case
from kvconform.specs.cells import Cell, OfferError
from kvconform.specs.layouts import LAYOUTS, SIDE_NAMES

OPS = ("append", "gather", "paged_decode")
"""Operations whose places can be told."""

MOST_CASES = 3
"""Sizes that are tried, at most, to tell rows apart."""

_VERB = {"append": "written", "gather": "read", "paged_decode": "read"}


@dataclass(frozen=True)
class Diagnosis:
    """What was found of one cell.

    op, layout, dtype   the cell
    placements          part -> where it lies, with the rows that agree in every size tried
    hidden              part -> why nothing can be said of it
    cases               what was called
    """

    op: str
    layout: str
    dtype: str
    placements: Mapping[str, Placement]
    hidden: Mapping[str, str] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether everything that could be told lies as the claimed row has it."""
        return bool(self.placements) and all(p.is_right(self.layout) for p in self.placements.values())

    @property
    def is_plain(self) -> bool:
        """Whether every part lies as in some row, on the pages of the tables."""
        return bool(self.placements) and all(
            p.rows and p.of == name and not (p.pages or p.note or p.lacks) for name, p in self.placements.items()
        )

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The rows that have every part where it lies, the claimed one first; none where no row does."""
        if not self.is_plain:
            return ()
        first, *others = (placement.rows for placement in self.placements.values())
        return tuple(name for name in first if all(name in rows for rows in others))

    def side(self, side: int) -> str:
        """What K or V uses, in a word or two: rows; the sentence says the rest."""
        told: dict[str, list[str]] = {}
        for part in LAYOUTS[self.layout].of_side(side):
            told.setdefault(self._short(part.name), []).append(part.name)
        if len(told) <= 1:
            return next(iter(told), "")
        return "; ".join(f"{_listed(names)} {what}" for what, names in told.items())

    def _short(self, name: str) -> str:
        if name in self.hidden:
            return "cannot be told"
        placement = self.placements[name]
        if not placement.rows:
            return "no row" if placement.is_seen else "not found"
        of = f"{placement.of} of " if placement.of != name else ""
        return (
            of
            + self.named(self.rows or placement.rows[:1])
            + ", but see below" * bool(placement.note or placement.lacks)
        )

    def named(self, rows: Sequence[str]) -> str:
        """A row by its name, with those in the same buffers that are not told apart from it."""
        if rows[0] == self.layout:
            return rows[0]
        others = [name for name in rows[1:] if LAYOUTS[name].buffers == LAYOUTS[self.layout].buffers]
        twins = [name for name in others if self._proof(rows[0], name)]
        return " or ".join([" = ".join([rows[0], *twins]), *(name for name in others if name not in twins)])

    @property
    def not_told_apart(self) -> dict[tuple[str, str], str]:
        """Rows that agree with all that was seen -> why no cache tells them apart, or that the sizes offered do not."""
        unproved = "the sizes that are offered do not tell them apart"
        return {(self.rows[0], name): self._proof(self.rows[0], name) or unproved for name in self.rows[1:]}

    def _proof(self, a: str, b: str) -> str:
        return same_places((min(a, b), max(a, b)), self.layout, self.dtype)

    @property
    def tables(self) -> str:
        """Whether pages are those of the tables, in a word or two."""
        told = [name for name, placement in self.placements.items() if placement.pages]
        if not any(placement.rows for placement in self.placements.values()):
            return "cannot be told"
        if len(told) in (0, len(self.placements)):
            return "not as given" if told else "as given"
        return f"of {_listed(list(map(_name, told)))} not as given"

    @property
    def unknown(self) -> str:
        """In words, of what nothing can be said and why; empty where something can be said of everything."""
        told: dict[str, list[str]] = {}
        for name, why in self.hidden.items():
            told.setdefault(why, []).append(_name(name))
        return "; ".join(f"of {_listed(names)} nothing can be told: {why}" for why, names in told.items())

    @property
    def sentence(self) -> str:
        """What is wrong, in one sentence; empty where nothing is."""
        if self.is_right or not self.placements:
            return ""
        told: dict[str, list[str]] = {}
        for name, placement in self.placements.items():
            told.setdefault(self._told(placement), []).append(name)
        said = "; ".join(self._said(names, what) for what, names in told.items())
        strides = self.cases[-1].strides
        return said if strides == "contiguous" else f"in arrays of strides {strides!r} {said}"

    def _said(self, names: Sequence[str], what: str) -> str:
        starts = {name: self.placements[name].start for name in names if self.placements[name].start}
        begins = "".join(f"; {_name(name)} {start}" for name, start in starts.items())
        if len(names) == 1:
            return ", ".join([f"{_name(names[0])} is {what}", *starts.values()])
        return f"{_listed(list(map(_name, names)))} are {what}{begins}"

    def _told(self, placement: Placement) -> str:
        verb = _VERB[self.op]
        if not placement.is_seen:
            return f"not found: {placement.note}"
        what = f"{verb} as in no known row: {placement.note}" if not placement.rows else self._as_in(placement, verb)
        return f"{what}{'; ' if placement.note else ', '}{placement.lacks}" if placement.lacks else what

    def _as_in(self, placement: Placement, verb: str) -> str:
        rows = self.rows or placement.rows[:1]
        if placement.of != placement.part:
            what = f"{verb} where {self.named(rows)} has {_name(placement.of)}"
        else:
            what = f"{verb} as in {self.named(rows)}" + f", not {self.layout}" * (self.layout not in rows)
        if placement.pages:
            what += f", but {placement.pages}"
        return f"{what}, {placement.note}" if placement.note else what


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _name(part: str) -> str:
    return part.upper() if part in SIDE_NAMES else part


def diagnose(call: Call, cell: Cell) -> Diagnosis:
    """Say what an implementation of one cell uses.

    call   runs one operation of it: `Subject.call`
    Raises OfferError where the offer leaves nothing to call, and Violation where a call fails.
    """
    cases = probe_cases(cell)
    found = _joined(None, observe(call, cell, next(cases)))
    for case in cases:
        in_doubt = _in_doubt(found)
        if not in_doubt or len(found.cases) == MOST_CASES:
            break
        if tells_apart(case, in_doubt):
            with suppress(Violation):  # what was seen before stands
                found = _joined(found, observe(call, cell, case))
    if found.is_right and len(cell.allowed("strides")) > 1:
        found = _joined(found, observe(call, cell, replace(found.cases[0], strides=cell.allowed("strides")[-1])))
    return found


def _joined(before: Diagnosis | None, observed: Observed) -> Diagnosis:
    """What one more Case says, of the rows that are left."""
    case, now = observed.inputs.case, placements(observed)
    if before is not None:
        now = {name: _both(before.placements[name], one, before.cases[-1], case) for name, one in now.items()}
    cases = (case,) if before is None else (*before.cases, case)
    return Diagnosis(case.op, case.layout, case.dtype, now, observed.hidden, cases)


def _both(before: Placement, now: Placement, earlier: Case, case: Case) -> Placement:
    rows = tuple(name for name in before.rows if name in now.rows)
    if rows or not now.rows or now.pages or now.note or now.lacks:
        return replace(now, rows=rows or now.rows)
    return Placement(now.part, note=f"as {before.rows[0]} in {_sizes(earlier)}, but as {now.rows[0]} in {_sizes(case)}")


def _sizes(case: Case) -> str:
    return f"page_size {case.page_size}, {case.num_kv_heads} heads, head_dim {case.head_dim}"


def _in_doubt(found: Diagnosis) -> tuple[str, ...]:
    """Rows that are left and are not the same places in every size."""
    several = [found.rows] if found.rows else [p.rows for p in found.placements.values()] if found.is_plain else []
    pairs = [(min(pair), max(pair)) for rows in several for pair in combinations(rows, 2)]
    return tuple({name: 0 for pair in pairs if not same_places(pair, found.layout, found.dtype) for name in pair})


class _TooLate(Exception):
    """The time that an explanation may take is over."""


def explain(call: Call, cell: Cell, until: float = math.inf) -> str:
    """Say in one sentence where an implementation's places differ from the claimed row's.

    until   time.monotonic() after which no further call is made
    Empty where they do not differ, where nothing can be told, where a call fails, or when time is over. Elements that
    are nowhere say nothing of places: their values may be wrong.
    """

    def in_time(case: Case, op: str, **arguments: Any) -> Mapping[str, Any]:
        if time.monotonic() > until:
            raise _TooLate
        return call(case, op, **arguments)

    if cell.op not in OPS:
        return ""
    try:
        found = diagnose(in_time, cell)
    except (Violation, OfferError, _TooLate):
        return ""
    return found.sentence if any(one.is_elsewhere(cell.layout) for one in found.placements.values()) else ""
