"""What is to be tried: the cells of a law that an implementation answers for, and why it does not answer for others."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from kvconform.harness.booking import LEFT, NOT_OFFERED, UNTRIED, Booked
from kvconform.harness.efforts import DEFAULT_EFFORT, EFFORTS, Effort
from kvconform.harness.subject import Subject
from kvconform.harness.turns import met
from kvconform.specs.case import Case
from kvconform.specs.cells import Cell, cells, offers_cell
from kvconform.specs.operations import OPERATIONS, ROUNDED
from kvconform.suites.law import Law

CACHE_DTYPES = tuple(dict.fromkeys(name for op in OPERATIONS.values() for row in op.layouts for name in row.dtypes))
"""What a cache may be in."""


class Lines(NamedTuple):
    """Lines that show a violation again, where `{...}` is filled in.

    replay   of one case, by `{case}` `{impl}` `{law}`
    rerun    of the run that led there, by `{impl}`; what it was asked for is put behind
    option   what its options begin with
    """

    replay: str = "kvconform replay {case} --impl {impl}"
    rerun: str = "kvconform run --impl {impl}"
    option: str = "--"


COMMAND = Lines()
"""Those of the command line."""


EACH_ONCE = "it is tried in another dtype of this layout, and in this dtype of another layout"
"""Why a short run leaves out a cell of a law that has many."""


@dataclass
class Options:
    """What a run asks for, whoever started it.

    effort, seed                  how hard, and from where
    ops, layouts, dtypes, laws    restrictions; empty: everything
    case                          judge this Case alone
    explains                      whether what violates is named, and made small
    lines                         how what is found is shown again, by whoever started the run
    kept                          (implementation, key) of cells that are tried although others of their law would do
    asked                         (subject, law), by identity -> them and their cells
    alike                         (subject, by identity, operations of a law) -> their cells: laws share them
    """

    effort: Effort
    seed: int = 0
    ops: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    case: Case | None = None
    explains: bool = True
    lines: Lines = COMMAND
    kept: set[tuple[str, str]] = field(default_factory=set)
    asked: dict[tuple[int, int], Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    alike: dict[Any, list[Cell]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def keep(self, impl: str, keys: Iterable[str]) -> None:
        """Try these cells although others of their law would do: those that a witness of an expectation belongs to."""
        self.kept.update((impl, key) for key in keys)
        self.asked.clear()

    def rerun(self, impl: str) -> str:
        """The line that runs all of this again."""
        profile = next((name for name, effort in EFFORTS.items() if effort == self.effort), DEFAULT_EFFORT)
        asked = {"op": self.ops, "layout": self.layouts, "dtype": self.dtypes, "law": self.laws}
        asked |= {"profile": (profile,), "seed": (str(self.seed),)}
        words = [f"{self.lines.option}{name} {value}" for name, values in asked.items() for value in values]
        return " ".join([self.lines.rerun.format(impl=shlex.quote(impl)), *words])

    def takes_law(self, law: Law) -> bool:
        """Whether a law is asked for."""
        return (
            (not self.ops or law.op in self.ops)
            and (not self.laws or law.name in self.laws)
            and (self.case is None or self.case.op == law.op)
        )

    def takes_cell(self, cell: Cell) -> bool:
        """Whether a cell is asked for."""
        same = self.case is None or (self.case.layout, self.case.dtype) == (cell.layout, cell.dtype)
        asked = (not self.layouts or cell.layout in self.layouts) and (not self.dtypes or cell.dtype in self.dtypes)
        return same and asked


def not_offered(subject: Subject, law: Law) -> str:
    """Why an implementation does not answer for a law, or nothing."""
    if law.op not in subject.offers:
        return f"{law.op} is not in OFFERS" + _because(subject, law.op, "operation")
    for need in law.needs:
        op, _, result = need.partition(":")
        if op not in subject.offers or (result and not subject.offers_result(op, result)):
            because = _because(subject, result, "returns") if result else _because(subject, op, "operation")
            return f"needs {need.replace(':', ' to return ')}{because}"
    if not law.wants(subject.conventions):
        return "its conventions leave nothing to claim"
    return ""


def _because(subject: Subject, word: str, axis: str) -> str:
    reason = subject.why_not_of(word, axis)
    return f": {reason}" if reason else ""


def planned(subject: Subject, law: Law, options: Options) -> list[tuple[Cell, Booked]]:
    """The cells of a law that are to be tried, none where it is not offered."""
    return [(cell, booked) for cell, booked in _asked(subject, law, options) if booked.outcome not in UNTRIED]


def left_out(subject: Subject, law: Law, options: Options) -> list[Booked]:
    """The cells of a law that are not, each with why."""
    return [booked for _, booked in _asked(subject, law, options) if booked.outcome in UNTRIED]


def _asked(subject: Subject, law: Law, options: Options) -> list[tuple[Cell, Booked]]:
    """Worked out once: a run asks for its plan several times, and fills in what is booked."""
    key = (id(subject), id(law))
    if key not in options.asked:
        options.asked[key] = (subject, law, _ask(subject, law, options))
    return [(cell, replace(booked, features={}, findings=[])) for cell, booked in options.asked[key][2]]


def _ask(subject: Subject, law: Law, options: Options) -> list[tuple[Cell, Booked]]:
    if not_offered(subject, law):
        return []
    asked = []
    for cell in _cells(subject, law, options):
        if options.takes_cell(cell):
            booked = Booked(subject.name, cell.op, cell.layout, cell.dtype, law.name)
            lacking = [op for op in law.operations if not _offers_too(subject, op, cell)]
            said = law.silence(cell) or (f"needs {' and '.join(lacking)} there too" if lacking else "")
            if said:
                booked.outcome, booked.message = NOT_OFFERED, said
            asked.append((cell, booked))
    _leave_to_longer_runs(law, [row for row in asked if row[1].outcome not in UNTRIED], options)
    return asked


def _leave_to_longer_runs(law: Law, asked: list[tuple[Cell, Booked]], options: Options) -> None:
    """Book on which cells a law is not tried by a run that is short, and why; one case alone is, whatever it costs."""
    if options.case is not None:
        return
    if not options.effort.longer:
        for cell, booked in asked:
            _leave(booked, law.longer(cell), lambda effort: effort.longer)
    few = options.effort.whole_cells
    if few is None or law.every_cell:
        return
    asked = [(cell, booked) for cell, booked in asked if booked.outcome not in UNTRIED]
    tried = met([cell for cell, _ in asked], few, f"{options.seed}/{law.name}", law.telling)
    for place, (_, booked) in enumerate(asked):
        if place not in tried and (booked.impl, booked.key) not in options.kept:
            _leave(booked, EACH_ONCE, lambda effort: effort.whole_cells is None)


def _leave(booked: Booked, why: str, to: Callable[[Effort], bool]) -> None:
    """Book that a cell is left to the profiles that try it, if there is a reason."""
    if why:
        longer = " and ".join(name for name, effort in EFFORTS.items() if to(effort))
        booked.outcome, booked.message = LEFT, f"left to {longer}: {why}"


def _cells(subject: Subject, law: Law, options: Options) -> list[Cell]:
    """What is offered of a law's operation, with what is offered of others that it calls."""
    key = (id(subject), law.op, law.operations)
    if key not in options.alike:
        effort = options.effort.of(law.op)
        alone = cells(law.op, subject.offers[law.op], subject.conventions, effort.geometries, effort.num_seqs)
        options.alike[key] = [
            replace(cell, also=tuple(_claims(subject, op, cell) for op in law.operations)) for cell in alone
        ]
    return options.alike[key]


def offered(subject: Subject, laws: Mapping[str, Law], effort: Effort) -> dict[str, list[str]]:
    """Law -> `layout/dtype` of each cell that an implementation answers for, whatever a run restricts itself to."""
    options = Options(replace(effort, longer=True, whole_cells=None))
    return {
        law.name: [f"{cell.layout}/{cell.dtype}" for cell, _ in planned(subject, law, options)] for law in laws.values()
    }


def _claims(subject: Subject, op: str, cell: Cell) -> Mapping[str, Any]:
    """What a second operation of a law asks of a Case; what it asks of layout and dtype is `_offers_too`."""
    claims = replace(cell, op=op, offer=subject.offers[op]).claims
    its_own = ("layout", "dtype", "static", "returns", "into", "buffers")
    return {axis: claims[axis] for axis in claims if axis not in its_own}


def _offers_too(subject: Subject, op: str, cell: Cell) -> bool:
    """Whether a second operation of a law is offered for the cell's dtype, and for its layout where both work on it.

    What works on results is offered for every dtype of theirs.
    """
    operation = OPERATIONS[op]
    here = [row for row in operation.layouts if row.name == cell.layout]
    rows = here or operation.layouts
    of_results = not set(operation.dtypes) - set(ROUNDED) and "q_dtype" in cell.axes and cell.dtype not in ROUNDED
    dtypes = cell.allowed("q_dtype") if of_results else [cell.dtype]
    return all(
        dtype in operation.dtypes and any(offers_cell(op, subject.offers[op], row, dtype) for row in rows)
        for dtype in dtypes
    )
