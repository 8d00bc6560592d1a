"""What an implementation uses where it violates: one diagnosis of each (operation, layout, dtype), for messages.

It is made only where a cell is red, its calls are no examples, and it ends early rather than keep a run waiting. The
violation is written to the journal before it, so that a kernel which dies of a probe costs nothing that was found.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvconform.harness.booking import Booked
from kvconform.harness.expectations import Expectation
from kvconform.harness.journal import Journal
from kvconform.harness.subject import Subject
from kvconform.oracles.diagnosis import OPS, explain
from kvconform.oracles.diagnosis.probe_cases import is_observable
from kvconform.oracles.verdict import Violation
from kvconform.specs.case import Case
from kvconform.specs.cells import Cell, cells
from kvconform.suites.law import Law

SHARE = 0.2
"""Share of an implementation's time that its diagnoses may take together; each one at most half of what is left."""


def unasked(op: str) -> str:
    """What stands among the keys of closed cells where a probe of an operation has ended a process."""
    return f"{op}/*/*/diagnosis"


def unimported(op: str) -> str:
    """What stands there where an adapter has died of being imported once more, or of the case that was judged then."""
    return f"{op}/*/*/alone"


@dataclass
class Diagnoses:
    """The diagnoses of one implementation.

    closed         keys of what is not to be tried again
    expectations   violations that are known: no probe lies in their regions
    seconds        that are left
    """

    subject: Subject
    journal: Journal
    closed: frozenset[str]
    expectations: tuple[Expectation, ...]
    seconds: float
    _told: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def of(self, law: Law, cell: Cell, booked: Booked) -> str | None:
        """What the operations of a law use in a red cell, in a sentence; None where they use what is claimed."""
        told = [self._of(one, booked) for one in self._cells(law, cell)]
        return "; ".join(filter(None, told)) or None

    def _cells(self, law: Law, cell: Cell) -> Iterable[Cell]:
        """The cells to diagnose: the operations of a law, in the layout and dtype where it violates."""
        for op in dict.fromkeys((law.op, *law.operations)):
            if op in OPS and op in self.subject.offers and unasked(op) not in self.closed:
                drawn = cell.num_geometries, cell.num_seqs
                every = cells(op, self.subject.offers[op], self.subject.conventions, *drawn)
                alike = (one for one in every if (one.layout, one.dtype) == (cell.layout, cell.dtype))
                yield from (one for one in alike if is_observable(one))

    def _of(self, cell: Cell, booked: Booked) -> str:
        key = (cell.op, cell.layout, cell.dtype)
        if key not in self._told:
            self.journal.write("found", cell=booked.to_json())
            start = time.monotonic()
            self._told[key] = self._explained(cell, booked.key, start + self.seconds / 2)
            self.seconds -= time.monotonic() - start
        return self._told[key]

    def _explained(self, cell: Cell, key: str, until: float) -> str:
        def call(case: Case, op: str, **arguments: Any) -> Mapping[str, Any]:
            if any(x.covers(law, case) for x in self.expectations for law in x.laws):
                raise Violation("what a call does here is known to violate")
            self.journal.write("case", key=key, case=case.to_json())
            return self.subject.call(case, op, **arguments)

        try:
            return explain(call, cell, until)
        except Exception as e:  # a message is not worth a run
            return f"cannot be told: the diagnosis of {cell.op} raised {type(e).__name__}: {e}"
