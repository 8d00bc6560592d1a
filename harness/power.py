"""How much the suite sees: every fault against every law of attention, for what one implementation offers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from kvconform.faults.fault import Fault
from kvconform.harness.booking import VIOLATES
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.faulty import FaultySubject
from kvconform.harness.plan import Options, planned
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.specs.cells import Cell
from kvconform.specs.offers import holds
from kvconform.specs.operations import OPERATIONS
from kvconform.suites.law import Law

OP = "paged_decode"
"""The operation that faults are made in."""

_OF_CELLS = ("kv_scales",)
"""Axes along which not every cell of an offer draws what the offer takes."""

EFFORT = replace(EFFORTS["default"], examples=24, attention={}, seconds=3600.0)
"""Counts decide; nothing is cut short. What small batches see, large ones do."""


@dataclass(frozen=True)
class Tried:
    """One law on one cell of a faulty implementation.

    cases     tried up to the first that violates; 0: all passed
    seconds   until then
    """

    fault: str
    law: str
    cell: str
    seed: int
    cases: int
    seconds: float


def made(fault: Fault, subject: Subject) -> str:
    """Why an implementation cannot have a fault, or nothing."""
    offer, row = subject.offers.get(OP, {}), OPERATIONS[OP]
    for axis, value in fault.needs.items():
        if axis == "returns":
            there = subject.offers_result(OP, value)
        elif axis in subject.conventions:
            there = value in subject.conventions[axis]
        else:
            silent: Mapping[str, Any] = {**row.optional, **row.unasked}
            there = holds(offer.get(axis, silent.get(axis, value)), value)
        if not there:
            return f"{axis} {value} is not offered"
    return "" if fault.claims(subject.conventions) else "its conventions make it right"


def tried(
    subject: Subject, fault: Fault | None, laws: Mapping[str, Law], seed: int, layouts: tuple[str, ...]
) -> Iterator[Tried]:
    """Every law on one cell, another one with each seed."""
    faulty = FaultySubject(subject, fault)
    options = Options(EFFORT, seed, ops=(OP,), layouts=layouts, explains=False)
    for law in laws.values():
        cells = [cell for cell, _ in planned(faulty, law, options) if _room(cell, fault)] if law.op == OP else []
        if cells:
            yield _one(faulty, law, cells[seed % len(cells)], options, fault.name if fault else "")


def _room(cell: Cell, fault: Fault | None) -> bool:
    """Whether what a fault needs is drawn in a cell."""
    needs = fault.needs if fault else {}
    fixed = {"layout": cell.layout, "dtype": cell.dtype}
    return all(
        value == fixed[axis] if axis in fixed else value in cell.allowed(axis)
        for axis, value in needs.items()
        if axis in fixed or axis in _OF_CELLS
    )


def _one(faulty: FaultySubject, law: Law, cell: Cell, options: Options, name: str) -> Tried:
    searcher = Searcher(faulty, replace(options, layouts=(cell.layout,), laws=(law.name,), dtypes=(cell.dtype,)))
    searcher.begin(1)
    start = time.perf_counter()
    (booked,) = searcher.run(law)
    seconds = time.perf_counter() - start
    cases = booked.first_violation if booked.outcome == VIOLATES else 0
    return Tried(name, law.name, f"{cell.layout}/{cell.dtype}", options.seed, cases, seconds)


def to_kill(some: list[Tried]) -> tuple[int, float] | None:
    """Median of cases and seconds to the first violation over seeds; None where one of them has none."""
    if not some or not all(one.cases for one in some):
        return None
    return round(median(one.cases for one in some)), median(one.seconds for one in some)


def best(of_laws: Mapping[str, list[Tried]]) -> tuple[int, float, str] | None:
    """The law that sees a fault with every seed after the fewest cases."""
    seen = [(*kill, law) for law, some in of_laws.items() if (kill := to_kill(some)) is not None]
    return min(seen, default=None)


def told(some: list[Tried]) -> str:
    """Cases to the first violation; in brackets with how many of the seeds, where not with all; a dot for none."""
    kill = to_kill(some)
    if kill is not None:
        return str(kill[0])
    seen = sum(one.cases > 0 for one in some)
    return f"({seen}/{len(some)})" if seen else "." if some else ""
