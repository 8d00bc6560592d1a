"""Trying a law on the cells of an implementation.

What is drawn in a cell depends on the seed and the cell, so that a violation in one leaves the others as they were.
Failures are memoised by Case: a kernel that fails now and then violates, and is never called flaky. A counterexample
found in one cell is tried on the next ones first, which spares most of the shrinking. What passes, and is farther out
than chance takes a correct kernel (oracles/screen.py), is drawn again and at most labelled.
"""

from __future__ import annotations

import json
import shlex
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hypothesis.errors import Flaky

from kvconform.harness import drawing
from kvconform.harness.adapters import AdapterError, afresh
from kvconform.harness.booking import CONFORMS, EXPECTED, NOT_OFFERED, NOT_REACHED, VIOLATES, Booked
from kvconform.harness.diagnoses import SHARE, Diagnoses, unimported
from kvconform.harness.expectations import Expectation, load
from kvconform.harness.journal import Journal
from kvconform.harness.plan import Options, offered, planned
from kvconform.harness.subject import Subject
from kvconform.harness.turns import Turn
from kvconform.oracles import screen
from kvconform.oracles.bound import OutsideDomain
from kvconform.oracles.mistakes import meant_by
from kvconform.oracles.verdict import Explanations, Raised, Violation, explaining, resolution
from kvconform.specs.case import DEFAULTS, Case, without_defaults
from kvconform.specs.cells import Cell, OfferError
from kvconform.specs.features import FEATURES
from kvconform.specs.inputs import digest
from kvconform.specs.offers import holds
from kvconform.specs.strategies import without_room
from kvconform.suites.law import Law

HEAD_START = 0.4
"""Share of an implementation's time that its first cells may use before the even pace of the others holds."""

ENOUGH_FAILURES = 4
"""Failing cases that a mistake has to explain, where so many are found, before a cell is said to look like it: those
that one was made smaller through are like it, and do not count."""

OTHER_CONTENTS = 4
"""Families of contents, the first ones of a law, of which those that its counterexample was not tried with are tried
before it is said to look like a mistake."""

MOST_BARREN = {False: 150, True: 50}
"""Static -> cases drawn one after another that cannot be judged or are no evidence, behind which no further ones of the
same families are drawn: where 3 of 100 are, or 9 where each call is slow, all are missed once in a hundred times."""


class _Enough(BaseException):
    """Leaves Hypothesis at once, which lets a BaseException through: what has been found stands."""


@dataclass
class Searcher:
    """Tries laws on one implementation and books what it sees.

    expectations_file   known violations, or None; `expectations_beside`: found beside the adapter, not named by the run
    closed              keys of cells that an earlier child has booked
    book                where booked cells are put
    tries, tries_left   cases that cells are to try, and those behind the cell in hand
    spent               seconds that its cells have taken
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
    tries: int = 1
    tries_left: int = 1
    spent: float = 0.0

    def read_expectations(self, laws: Mapping[str, Law]) -> None:
        """Read the file. Raises AdapterError."""
        if self.expectations_file is not None:
            beside = self.expectations_beside
            self.expectations = load(self.expectations_file, self.subject.name, laws, beside=beside)
        if self.expectations:
            cells = offered(self.subject, laws, self.options.effort)
            for expectation in self.expectations:
                expectation.require_a_cell(cells)
            self.options.keep(self.subject.name, (key for one in self.expectations for key in one.keys))

    @cached_property
    def diagnoses(self) -> Diagnoses:
        """What its cells use where they are red."""
        seconds = SHARE * self.options.effort.seconds
        return Diagnoses(self.subject, self.journal, self.closed, self.expectations, seconds)

    def begin(self, tries: int) -> None:
        """Start the clock that so many tries of cases share."""
        self.tries = self.tries_left = max(1, tries)
        self.spent = 0.0

    def tries_of(self, law: Law) -> int:
        """Cases that a cell of a law tries, about: as many as its first one, and one where that cannot be told.

        Cases of a law that draws none are large: they count for as many as are drawn elsewhere.
        """
        every = planned(self.subject, law, self.options)
        with suppress(Exception):  # it is raised again when the law is tried, and costs that law alone
            for cell, _ in every[:1]:
                families = cell.families(law.families) if law.drawn else ()
                turn = self._turn(law, cell, 0, len(every))
                tries = turn.planned(law.pinned_cases(cell), families)
                return tries if law.drawn else max(tries, turn.examples)
        return 1

    def run(self, law: Law) -> list[Booked]:
        """Try a law on each of its cells."""
        done = []
        every, tries = planned(self.subject, law, self.options), self.tries_of(law)
        for place, (cell, booked) in enumerate(every):
            if booked.key in self.closed:
                continue
            start = time.monotonic()
            self.tries_left = max(0, self.tries_left - tries)
            _Trial(self, law, cell, booked, self._turn(law, cell, place, len(every))).run()
            self.spent += time.monotonic() - start
            self.journal.write("booked", cell=booked.to_json(), attested=self.subject.attested())
            self.book(booked)
            done.append(booked)
        return done

    def _turn(self, law: Law, cell: Cell, place: int, of: int) -> Turn:
        return Turn(place, of, self.options.effort.of(law.op), cell.static, law.every_cell)

    def until(self) -> float:
        """time.monotonic() at which the time of the cell in hand is up: tries end at an even pace, behind a head start.

        The head start is for first cells, which compile; a cell that took less leaves the rest to those after it. Only
        time of this implementation counts: in one pytest session several take turns, law by law.
        """
        seconds, done = self.options.effort.seconds, self.tries - self.tries_left
        head_start = seconds * HEAD_START
        return time.monotonic() + head_start + (seconds - head_start) * done / self.tries - self.spent


class _Trial:
    """One law on one cell, whose turn among those of its law says what of the law's cases it tries."""

    def __init__(self, searcher: Searcher, law: Law, cell: Cell, booked: Booked, turn: Turn) -> None:
        self.searcher, self.subject, self.law, self.cell, self.booked = searcher, searcher.subject, law, cell, booked
        self.turn = turn
        self.effort = searcher.options.effort
        self.families: tuple[str, ...] | None = None
        self.failures: dict[Case, Violation] = {}
        self.explained: set[str] | None = None
        self.confirmed: set[str] = set()
        self.independent = 0
        self.witness: Case | None = None
        self.pinned_witness: Case | None = None
        self.ended_barren = False
        self.flagged: tuple[Case, str] | None = None
        self.calls_after_failure = 0
        self.cut_short = False

    def run(self) -> None:
        """Fill in the booking."""
        start, inside = time.perf_counter(), self.subject.inside
        self.until = self.searcher.until()
        self.subject.weights = []
        booked = self.booked
        try:
            self._search()
        except OfferError as e:
            booked.message = str(e)
        except _Enough:
            pass
        except (Violation, Flaky):  # flaky is the kernel, not the search: what it did once stands
            if not self.failures:
                raise
        self._draw_again()
        booked.resolution = resolution(self.subject.weights)  # of what was searched, not of what led to a name
        self._decide()
        booked.seconds = time.perf_counter() - start
        booked.inside_seconds = self.subject.inside - inside
        if self.witness is not None and self.searcher.options.explains:
            booked.diagnosis = self.searcher.diagnoses.of(self.law, self.cell, booked)
            self._look_alone(self.witness)

    def _search(self) -> None:
        options = self.searcher.options
        if options.case is not None:
            self.booked.planned = self.booked.whole = 1
            self._judge_drawn(options.case)
            return
        turn, pinned = self.turn, self.law.pinned_cases(self.cell)
        families = self.cell.families(self.law.families) if self.law.drawn else ()
        self.booked.planned = turn.planned(pinned, families)
        self.booked.whole = turn.alone.planned(pinned, families)
        if time.monotonic() > self.until:
            turn = turn.shortest
            self.cut_short = turn.planned(pinned, families) < self.booked.planned
        steps: list[Callable[[], None]] = [partial(self._judge_pinned, turn.pinned(pinned))]
        if self.law.drawn:
            steps.insert(0 if turn.draws_first else 1, partial(self._judge_families, turn, families))
        wrong: OfferError | None = None
        for step in steps:
            try:
                step()
            except OfferError as e:
                wrong = e
        if wrong is not None:
            raise wrong

    def _judge_families(self, turn: Turn, families: tuple[str, ...]) -> None:
        """Judge cases of all families as they are drawn, or so many of each that is owed."""
        owed = turn.families(families)
        for family, count in owed.items():
            self._judge_some(f"cases {family}", (family,), count, turn.begins_with_the_simplest)
        if not owed or not (turn.whole or self.booked.examples):  # if those show nothing, perhaps others do
            self._judge_some("cases", None, turn.examples, turn.begins_with_the_simplest)
        self.families = None

    def _judge_some(self, purpose: str, families: tuple[str, ...] | None, count: int, simplest: bool) -> None:
        """Judge so many cases of some families; another one is drawn in the place of one that is no evidence.

        simplest   whether the first one is the simplest
        """
        self.families, shown, barren = families, 0, 0
        first = [self.law.simplest(self.cell, families)] if simplest else []
        judged = chain(map(self._shows, first), self._drawn(self._shows, purpose, families))
        while shown < count and barren < MOST_BARREN[self.cell.static]:
            shows = next(judged)
            shown, barren = shown + shows, 0 if shows else barren + 1
        self.ended_barren |= shown < count

    def _shows(self, case: Case) -> bool:
        """Judge a drawn case; whether it is evidence."""
        try:
            self._judge_drawn(case)
        except OutsideDomain:
            return False
        return not self.subject.idle

    def _drawn(
        self, judge: Callable[[Case], bool], purpose: str, families: tuple[str, ...] | None = None
    ) -> Iterator[bool]:
        """Cases of some families, drawn from the run's seed, the cell and the purpose alone, and judged."""
        by = zlib.crc32(f"{self.searcher.options.seed}/{self.booked.key}/{purpose}".encode())
        return drawing.judged(self.law.strategy(self.cell, families), judge, by)

    def _judge_pinned(self, cases: tuple[Case, ...]) -> None:
        """A pinned case that violates is kept, and a smaller one is looked for all the same.

        Others are judged behind it as long as they can still say which mistake it is.
        """
        for case in cases:
            try:
                self._judge(case)
            except OutsideDomain:
                continue
            except Violation:
                self.pinned_witness, self.witness = case, None
                if self._settled():
                    return

    def _judge_drawn(self, case: Case) -> None:
        """Judge a case, and remember the first one that passes and that chance alone explains badly."""
        self._judge(case)
        if self.subject.doubt and self.flagged is None:
            self.flagged = case, self.subject.doubt

    def _draw_again(self) -> None:
        """Draw what the screen flagged with other seeds, and label the cell where it flags most of these.

        Whatever led to the first case, these were not chosen, so chance has its say in them. One that violates does.
        In a cell that violates, what is flagged may have been made smaller on the way, and is no news.
        """
        if self.flagged is None or self.witness is not None or self.pinned_witness is not None:
            return
        case, said = self.flagged
        draws, most = screen.draws_again()
        flags = 0
        for drawn in range(1, draws + 1):
            fresh = replace(case, seed=case.seed + drawn)
            with suppress(OutsideDomain):
                violation = self._violation(fresh)
                if violation is not None and not self._is_expected(fresh):
                    self._keep(fresh, violation)
                    return
                flags += bool(self.subject.doubt)
            if flags + draws - drawn < most:
                return
        shown, replay = self._pasted(case)
        self.booked.doubt = {"message": said, "flags": flags, "draws": draws, "case": shown, "replay": replay}

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

    def _is_here(self, expectation: Expectation) -> bool:
        """Whether a region reaches into this cell."""
        cell = {"layout": self.cell.layout, "dtype": self.cell.dtype}
        return all(holds(expectation.when.get(axis, value), value) for axis, value in cell.items())

    def _violation(self, case: Case) -> Violation | None:
        self.searcher.journal.write("case", key=self.booked.key, case=case.to_json())
        counts = int(self.witness is None)
        self.booked.examples += counts
        self.subject.begin()
        try:
            self.law.check(self.subject, case)
        except Violation as violation:
            self.subject.idle, self.subject.doubt = False, ""
            return violation
        except OutsideDomain:
            self.booked.examples -= counts
            raise
        self.subject.idle |= self.subject.saw_zeros
        if self.subject.idle:
            self.booked.examples -= counts
            self.booked.idle += counts
        for feature in self.subject.shown:
            self.booked.features[feature] = self.booked.features.get(feature, 0) + counts
        return None

    def _keep(self, case: Case, violation: Violation) -> None:
        if not self.failures:
            self.booked.first_violation = self.booked.examples + self.booked.idle
        self.independent += self.witness is None and not isinstance(violation, Raised)
        self.failures[case], self.witness = violation, case
        if not self.searcher.options.explains:
            raise _Enough
        self._narrow(violation)

    def _narrow(self, violation: Violation) -> None:
        """Keep the mistakes that explain this violation too; whoever reads elsewhere may also end in an exception."""
        if isinstance(violation, Raised):
            return
        said = self._said(violation.explanations)
        self.explained = {name for name, explains in said.items() if explains is not False}
        self.confirmed |= {name for name, explains in said.items() if explains}

    def _said(self, explanations: Explanations) -> dict[str, bool | None]:
        """What those mistakes say of what was seen that nothing speaks against so far; that they are tried is said
        before, since it takes time that is not the kernel's."""
        said = {}
        for name in explanations.keys() if self.explained is None else self.explained & explanations.keys():
            self.searcher.journal.write("named", mistake=name)
            said[name] = explanations[name]()
        return said

    def _try_known_witnesses(self) -> None:
        """The simplest case, and counterexamples of earlier cells, moved here: these are small already."""
        if self.searcher.options.case is not None:
            return
        simplest = [self.law.simplest(self.cell, self.families)] if self.law.drawn else []
        for known in (*simplest, *self.searcher.witnesses.get(self.law.name, ())):
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
            if self.searcher.options.explains and self.searcher.options.case is None:
                self._leave_features_out()
            self.searcher.witnesses.setdefault(self.law.name, []).append(self.witness)
            self._book_violation(self.witness, str(self.failures[self.witness]))
            if self.searcher.options.explains:
                booked.looks_like = self._name()
                booked.meant = meant_by(booked.looks_like, self.subject.conventions)
                booked.suspect = self.failures[self.witness].hint()
            return
        booked.outcome = CONFORMS if booked.examples else NOT_REACHED
        if booked.idle and not booked.examples:
            booked.outcome = NOT_OFFERED
            booked.message = f"says nothing there: a kernel that does nothing passes each of {booked.idle} cases"
        if booked.expected:
            booked.outcome = EXPECTED
        if self.cut_short:
            booked.message = f"cut short {booked.examples}/{booked.planned}"
        elif self.ended_barren and booked.examples:
            booked.message = (
                f"{booked.examples}/{booked.planned}, since others that were drawn cannot be judged or are no evidence"
            )
        elif self.ended_barren and not booked.idle:
            booked.message = "no case lies inside the domain of the declared arithmetic"
        self._check_expectations()
        if booked.outcome == EXPECTED:
            about = [x for x in self.searcher.expectations if self.law.name in x.laws]
            booked.entire_law = any(x.covers_all(self.law, self.cell) for x in about)
            here = [x for x in about if x.witness.op == self.cell.op and self._is_here(x)]
            booked.message = booked.message or "; ".join(x.reason for x in here)

    def _leave_features_out(self) -> None:
        """Turn features of the witness off without which it violates all the same: they are drawn as one combination,
        of which nothing that makes a case smaller leaves out one."""
        for name in FEATURES:
            case = self.witness
            assert case is not None
            less = replace(case, **{name: DEFAULTS[name]})
            less = replace(less, **without_room({"tree_mask": less.tree_mask, "q_lens": less.q_lens}))
            if less == case or not self.cell.draws(less):
                continue
            with suppress(OutsideDomain):
                violation = self.failures.get(less) or self._violation(less)
                if violation is not None and not self._is_expected(less):
                    self.failures[less], self.witness = violation, less
                    self._narrow(violation)

    def _look_alone(self, witness: Case) -> None:
        """Say so where a case alone conforms: judged in a fresh import, and then once more in this one.

        State outside of the adapter's module stays. The violation is written to the journal before, so that an adapter
        which dies of its second import costs nothing that was found.
        """
        searcher, subject, booked = self.searcher, self.subject, self.booked
        if unimported(booked.op) in searcher.closed or searcher.options.case:
            return
        if time.monotonic() > self.until:
            booked.alone = "whether it violates alone was not tried, since time is up"
            return
        searcher.journal.write("found", cell=booked.to_json(), alone=True)
        try:
            again = afresh(subject.adapter) if type(subject) is Subject else None
        except AdapterError as e:
            booked.alone = f"whether it violates alone cannot be told: {e}"
            return
        if again is None or self._still_violates(Subject(again, subject.name, subject.file, subject.ref), witness):
            return
        booked.alone = "alone it conforms: it takes calls before it"
        if not self._still_violates(subject, witness):
            booked.alone = "alone it conforms, and so it did when tried once more: it violates now and then"
        booked.rerun = searcher.options.rerun(subject.ref)

    def _still_violates(self, subject: Subject, witness: Case) -> bool:
        here, self.subject = self.subject, subject
        try:
            return self._violation(witness) is not None
        except OutsideDomain:
            return True
        finally:
            self.subject = here

    def _name(self) -> str | None:
        """The one mistake that explains every failing case that was seen, and the counterexample with other contents.

        A run looks for enough of them; a replay sees one.
        """
        if self.searcher.options.case is None and not self._settled():
            self._see_more_failures()
        if self._likely():
            self._see_other_contents()
        likely = self._likely()
        return likely.pop() if len(likely) == 1 else None

    def _likely(self) -> set[str]:
        return {name.rpartition("/")[0] for name in (self.explained or set()) & self.confirmed}

    def _settled(self) -> bool:
        """Whether no further failing case is needed: nothing is left, or one mistake that explained several."""
        return not self.explained or (len(self._likely()) == 1 and self.independent >= ENOUGH_FAILURES)

    def _see_more_failures(self) -> None:
        """Judge further cases: on the smallest one many mistakes look alike, and one by chance like another fault."""

        def narrows(case: Case) -> bool:
            with suppress(OutsideDomain):
                violation = self._violation(case)
                if violation is not None and not self._is_expected(case):
                    self.independent += not isinstance(violation, Raised)
                    self._narrow(violation)
            return True

        most = self.turn.alone.planned((), self.cell.families(self.law.families))
        for _ in islice(self._drawn(narrows, "names"), most):
            if self._settled():
                return

    def _see_other_contents(self) -> None:
        """Drop mistakes that do not explain what the counterexample gives with other contents, be it right or wrong.

        Who reads wrongly does so whatever is there; what depends on numbers is another fault.
        """
        assert self.witness is not None
        for family in self.cell.families(self.law.families)[:OTHER_CONTENTS]:
            case = replace(self.witness, family=family)
            if case in self.failures or not self.cell.draws(case):
                continue
            with suppress(OutsideDomain), explaining() as met:
                violation = self._violation(case)
                for explanations in met:
                    refuted = {name for name, explains in self._said(explanations).items() if explains is False}
                    self.explained = (self.explained or set()) - refuted
                if violation is not None and not self._is_expected(case):
                    self._narrow(violation)

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
            witness, replay = self._pasted(x.witness)
            known = {"reason": x.reason, "link": x.link, "when": dict(x.when), "said": str(still)}
            self.booked.findings.append(known | {"witness": witness, "replay": replay})

    def _book_violation(self, case: Case, message: str) -> None:
        self.booked.outcome, self.booked.message = VIOLATES, message
        self.booked.counterexample, self.booked.replay = self._pasted(case)

    def _pasted(self, case: Case) -> tuple[dict[str, Any], str]:
        """A case as JSON with its law and digest, and the line that shows it again."""
        data = case.to_json() | {"law": self.law.name, "digest": digest(case)}
        return data, replay_line(self.searcher.options.lines.replay, data, self.subject.ref, self.law.name)


def replay_line(form: str, case: dict[str, Any], impl: str, law: str) -> str:
    """The line that shows one Case again, in the form that started the run; fields at their defaults are left out."""
    short = json.dumps(without_defaults(case), separators=(",", ":"))
    return form.format(case=shlex.quote(short), impl=shlex.quote(impl), law=law)
