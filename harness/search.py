"""Trying a law on the cells of an implementation: the only place where Hypothesis is driven.

Each cell has its own `@given`, seeded by (seed, cell), so that a violation in one leaves the others as they were.
Failures are memoised by Case: a kernel that fails now and then violates, and is never called flaky. A counterexample
found in one cell is tried on the next ones first, which spares most of the shrinking.
"""

from __future__ import annotations

import json
import shlex
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings
from hypothesis.errors import Flaky, Unsatisfiable

from kvconform.harness.booking import CONFORMS, EXPECTED, NOT_OFFERED, NOT_REACHED, VIOLATES, Booked
from kvconform.harness.efforts import Effort
from kvconform.harness.expectations import Expectation, load
from kvconform.harness.journal import Journal
from kvconform.harness.subject import Subject
from kvconform.oracles.bound import OutsideDomain
from kvconform.oracles.verdict import Violation, resolution
from kvconform.specs.case import Case
from kvconform.specs.inputs import digest
from kvconform.specs.strategies import Cell, OfferError, cells
from kvconform.suites.law import Law

HEAD_START = 0.4
"""Share of an implementation's time that its first cells may use before the even pace of the others holds."""

ENOUGH_FAILURES = 4
"""Failing cases that a mistake has to explain, where so many are found, before a cell is said to look like it."""


class _Enough(BaseException):
    """Leaves @given at once (Hypothesis lets a BaseException through): what has been found stands."""


@dataclass
class Options:
    """What a run asks for, whoever started it.

    effort, seed                  how hard, and from where
    ops, layouts, laws            restrictions; empty: everything
    case                          judge this Case alone
    replay_form                   how a counterexample is replayed; `{case}` `{impl}` `{law}` are filled in
    """

    effort: Effort
    seed: int = 0
    ops: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    case: Case | None = None
    replay_form: str = "kvconform replay {case} --impl {impl} --law {law}"

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
        return same and (not self.layouts or cell.layout in self.layouts)


def not_offered(subject: Subject, law: Law) -> str:
    """Why an implementation does not answer for a law, or nothing."""
    if law.op not in subject.offers:
        return f"{law.op} is not in OFFERS"
    for need in law.needs:
        op, _, result = need.partition(":")
        if op not in subject.offers or (result and not subject.offers_result(op, result)):
            return f"needs {need.replace(':', ' to return ')}"
    if not law.wants(subject.conventions):
        return "its conventions leave nothing to claim"
    return ""


def planned(subject: Subject, law: Law, options: Options) -> list[tuple[Cell, Booked]]:
    """The cells of a law that are to be tried, none where it is not offered."""
    return [(cell, booked) for cell, booked in _asked(subject, law, options) if booked.outcome != NOT_OFFERED]


def left_out(subject: Subject, law: Law, options: Options) -> list[Booked]:
    """The cells of a law for which a second operation that it needs is not offered."""
    return [booked for _, booked in _asked(subject, law, options) if booked.outcome == NOT_OFFERED]


def _asked(subject: Subject, law: Law, options: Options) -> list[tuple[Cell, Booked]]:
    if not_offered(subject, law):
        return []
    asked = []
    for alone in cells(law.op, subject.offers[law.op], subject.conventions, options.effort.geometries):
        cell = replace(alone, also=tuple(_claims(subject, op, alone) for op in law.operations))
        if options.takes_cell(cell):
            booked = Booked(subject.name, cell.op, cell.layout, cell.dtype, law.name)
            lacking = [op for op in law.operations if not _offers_too(subject, op, cell)]
            if not law.rows(cell.row):
                booked.outcome, booked.message = NOT_OFFERED, f"says nothing about {cell.layout}"
            elif lacking:
                booked.outcome, booked.message = NOT_OFFERED, f"needs {' and '.join(lacking)} there too"
            asked.append((cell, booked))
    return asked


def _cell_names(asked: list[tuple[Cell, Booked]]) -> list[str]:
    return [f"{cell.layout}/{cell.dtype}" for cell, _ in asked]


def _claims(subject: Subject, op: str, cell: Cell) -> Mapping[str, Any]:
    """What a second operation of a law asks of a Case; what it asks of layout and dtype is `_offers_too`."""
    claims = replace(cell, op=op, offer=subject.offers[op]).claims
    return {axis: claims[axis] for axis in claims if axis not in ("layout", "dtype", "static", "returns")}


def _offers_too(subject: Subject, op: str, cell: Cell) -> bool:
    """Whether a second operation of a law is offered for the cell's dtype, and for its layout where both work on it."""
    matching = cells(op, subject.offers[op], subject.conventions)
    layouts = {c.layout for c in matching}
    return any(c.dtype == cell.dtype and (c.layout == cell.layout or cell.layout not in layouts) for c in matching)


@dataclass
class Searcher:
    """Tries laws on one implementation and books what it sees.

    expectations_file   known violations, or None; `expectations_beside`: found beside the adapter, not named by the run
    closed              keys of cells that an earlier child has booked
    book                where booked cells are put
    witnesses           law -> counterexamples of earlier cells
    """

    subject: Subject
    options: Options
    expectations_file: Path | None = None
    expectations_beside: bool = True
    journal: Journal = field(default_factory=Journal)
    closed: frozenset[str] = frozenset()
    book: Callable[[Booked], None] = lambda booked: None
    witnesses: dict[str, list[Case]] = field(default_factory=dict)
    expectations: tuple[Expectation, ...] = ()
    num_cells: int = 1
    cells_left: int = 1
    started: float = 0.0

    def read_expectations(self, laws: Mapping[str, Law]) -> None:
        """Read the file. Raises AdapterError."""
        if self.expectations_file is not None:
            beside = self.expectations_beside
            self.expectations = load(self.expectations_file, self.subject.name, laws, beside=beside)
        if self.expectations:
            everything = Options(self.options.effort)
            offered = {law.name: _cell_names(planned(self.subject, law, everything)) for law in laws.values()}
            for expectation in self.expectations:
                expectation.require_a_cell(offered)

    def begin(self, num_cells: int) -> None:
        """Start the clock that cells share."""
        self.num_cells = self.cells_left = max(1, num_cells)
        self.started = time.monotonic()

    def run(self, law: Law) -> list[Booked]:
        """Try a law on each of its cells."""
        done = []
        for cell, booked in planned(self.subject, law, self.options):
            if booked.key in self.closed:
                continue
            _Trial(self, law, cell, booked).run()
            self.cells_left = max(1, self.cells_left - 1)
            self.journal.write("booked", cell=booked.to_json(), attested=self.subject.attested())
            self.book(booked)
            done.append(booked)
        return done

    def until(self) -> float:
        """time.monotonic() at which the next cell's time is up: cells end at an even pace, behind a head start.

        The head start is for first cells, which compile; a cell that took less leaves the rest to those after it.
        """
        seconds, done = self.options.effort.seconds, self.num_cells - self.cells_left
        head_start = seconds * HEAD_START
        return self.started + head_start + (seconds - head_start) * (done + 1) / self.num_cells


class _Trial:
    """One law on one cell."""

    def __init__(self, searcher: Searcher, law: Law, cell: Cell, booked: Booked) -> None:
        self.searcher, self.subject, self.law, self.cell, self.booked = searcher, searcher.subject, law, cell, booked
        self.effort = searcher.options.effort
        self.failures: dict[Case, Violation] = {}
        self.explained: set[str] | None = None
        self.narrowed = 0
        self.witness: Case | None = None
        self.pinned_witness: Case | None = None
        self.calls_after_failure = 0
        self.cut_short = False

    def run(self) -> None:
        """Fill in the booking."""
        start, inside = time.perf_counter(), self.subject.inside
        self.until = self.searcher.until()
        self.subject.weights = []
        booked = self.booked
        booked.planned = self.effort.static_examples if self.cell.static else self.effort.examples
        try:
            self._search()
        except OfferError as e:
            booked.message = str(e)
        except Unsatisfiable:
            booked.message = "no case lies inside the domain of the declared arithmetic"
        except _Enough:
            pass
        except (Violation, Flaky):  # flaky is the kernel, not the search: what it did once stands
            if not self.failures:
                raise
        self._decide()
        booked.resolution = resolution(self.subject.weights)
        booked.seconds = time.perf_counter() - start
        booked.inside_seconds = self.subject.inside - inside

    def _search(self) -> None:
        options = self.searcher.options
        if options.case is not None:
            self.booked.planned = 1
            self._judge(options.case)
            return
        self._judge_pinned()

        def one(case: Case) -> None:
            try:
                self._judge(case)
            except OutsideDomain:
                reject()

        self._drive(one, "cases", (Phase.generate, Phase.shrink))

    def _drive(self, judge: Callable[[Case], None], purpose: str, phases: tuple[Phase, ...]) -> None:
        """Draw as many cases as are planned, from the run's seed, the cell and the purpose alone."""
        key = f"{self.searcher.options.seed}/{self.booked.key}/{purpose}"

        @seed(zlib.crc32(key.encode()))
        @settings(
            max_examples=self.booked.planned,
            deadline=None,  # the supervisor times calls; a slow kernel is not a wrong one
            database=None,  # a run depends on its seed alone
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            phases=phases,
            # a kernel may be slow, and an arithmetic may rule many cases out
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(case=self.law.strategy(self.cell))
        def drawn(case: Case) -> None:
            judge(case)

        drawn()

    def _judge_pinned(self) -> None:
        """A pinned case that violates is kept, and a smaller one is looked for all the same."""
        for case in self.law.pinned(self.cell):
            try:
                self._judge(case)
            except OutsideDomain:
                continue
            except Violation:
                self.pinned_witness, self.witness = case, None

    def _judge(self, case: Case) -> None:
        if case in self.failures:
            self.witness = case  # Hypothesis ends with the smallest one
            raise self.failures[case]
        if self.witness is not None:
            self.calls_after_failure += 1
            if self.calls_after_failure > self.effort.shrink_calls:
                raise _Enough
        elif self.booked.examples and time.monotonic() > self.until:
            self.cut_short = True
            raise _Enough
        violation = self._violation(case)
        if violation is None:
            return
        if self._is_expected(case):
            self.booked.expected += 1
            return
        self._keep(case, violation)
        if len(self.failures) == 1:
            self._try_known_witnesses()
        raise violation

    def _is_expected(self, case: Case) -> bool:
        return any(x.covers(self.law.name, case) for x in self.searcher.expectations)

    def _violation(self, case: Case) -> Violation | None:
        self.searcher.journal.write("case", key=self.booked.key, case=case.to_json())
        self.booked.examples += self.witness is None
        try:
            self.law.check(self.subject, case)
        except Violation as violation:
            return violation
        except OutsideDomain:
            self.booked.examples -= self.witness is None
            raise
        return None

    def _keep(self, case: Case, violation: Violation) -> None:
        self.failures[case], self.witness = violation, case
        self._narrow(violation)

    def _narrow(self, violation: Violation) -> None:
        """Keep the mistakes that explain this violation too."""
        self.narrowed += 1
        names = violation.explanations if self.explained is None else self.explained
        self.explained = {n for n in names if n in violation.explanations and violation.explanations[n]()}

    def _try_known_witnesses(self) -> None:
        """A counterexample of an earlier cell, moved here: if it violates too, it is small already."""
        for known in self.searcher.witnesses.get(self.law.name, ()):
            moved = replace(known, layout=self.cell.layout, dtype=self.cell.dtype)
            if moved.row.kind == known.row.kind and self.cell.draws(moved) and moved not in self.failures:
                with suppress(OutsideDomain):
                    violation = self._violation(moved)
                    if violation is not None and not self._is_expected(moved):
                        self._keep(moved, violation)
                        raise _Enough

    def _decide(self) -> None:
        booked = self.booked
        self.witness = self.witness or self.pinned_witness
        if self.witness is not None:
            self.searcher.witnesses.setdefault(self.law.name, []).append(self.witness)
            self._book_violation(self.witness, str(self.failures[self.witness]))
            booked.looks_like = self._name()
            return
        booked.outcome = CONFORMS if booked.examples else NOT_REACHED
        if booked.expected:
            booked.outcome = EXPECTED
        if self.cut_short:
            booked.message = f"cut short {booked.examples}/{booked.planned}"
        self._check_expectations()
        if booked.outcome == EXPECTED:
            booked.entire_law = any(x.covers_all(self.law, self.cell) for x in self.searcher.expectations)

    def _name(self) -> str | None:
        """The one mistake that explains every failing case that was seen, and enough of them were."""
        if self.searcher.options.case is None and not self._settled():
            self._see_more_failures()
        likely = self._likely()
        return likely.pop() if len(likely) == 1 else None

    def _likely(self) -> set[str]:
        return {name.rpartition("/")[0] for name in self.explained or ()}

    def _settled(self) -> bool:
        """Whether no further failing case is needed: nothing is left, or one mistake that explained several."""
        likely = len(self._likely())
        return not likely or (likely == 1 and self.narrowed >= ENOUGH_FAILURES)

    def _see_more_failures(self) -> None:
        """Judge further cases: on the smallest one many mistakes look alike, and one by chance like another fault."""

        def one(case: Case) -> None:
            try:
                violation = self._violation(case)
            except OutsideDomain:
                return
            if violation is not None and not self._is_expected(case):
                self._narrow(violation)
                if self._settled():
                    raise _Enough

        with suppress(_Enough):
            self._drive(one, "names", (Phase.generate,))

    def _check_expectations(self) -> None:
        """The witness of each expectation must still violate."""
        for x in self.searcher.expectations:
            at = (x.witness.op, x.witness.layout, x.witness.dtype)
            if self.law.name not in x.laws or at != (self.cell.op, self.cell.layout, self.cell.dtype):
                continue
            try:
                still = self._violation(x.witness)
            except OutsideDomain as e:
                self._book_violation(x.witness, f"the witness of {x.where} cannot be judged: {e}")
                return
            if still is None:
                text = f"the witness of the expectation {x.reason!r} conforms now: remove this line ({x.where})"
                self._book_violation(x.witness, text)
                self.booked.witness_conforms = True
                return
            self.booked.outcome = EXPECTED
            self.booked.expected += 1
            self.booked.message = x.reason

    def _book_violation(self, case: Case, message: str) -> None:
        data = case.to_json() | {"law": self.law.name, "digest": digest(case)}
        form = self.searcher.options.replay_form
        self.booked.outcome, self.booked.message, self.booked.counterexample = VIOLATES, message, data
        self.booked.replay = replay_line(form, data, self.subject.ref, self.law.name)


def replay_line(form: str, case: dict[str, Any], impl: str, law: str) -> str:
    """The line that shows one Case again, in the form that started the run."""
    return form.format(case=shlex.quote(json.dumps(case, separators=(",", ":"))), impl=shlex.quote(impl), law=law)
