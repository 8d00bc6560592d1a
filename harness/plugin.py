"""pytest hooks and the `subject` fixture; the root conftest takes them all.

Implementations come from `--kv-impl`, or from `kvconform.toml` (harness/session.py). Exit codes are those of the
command line: pytest's 5 becomes 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest

from kvconform.harness import booking, shares, where_time_goes
from kvconform.harness.adapters import AdapterError, nearest
from kvconform.harness.booking import (
    BAD,
    DOUBTFUL,
    NOT_OFFERED,
    UNTRIED,
    Booked,
    attested,
    paste,
    paste_doubt,
    unassigned,
)
from kvconform.harness.efforts import DEFAULT_EFFORT, EFFORTS, HOW_HARD
from kvconform.harness.expectations import FILE_NAME
from kvconform.harness.plan import left_out, not_offered, planned
from kvconform.harness.search import Searcher
from kvconform.harness.session import HOST_FILE, STATE, State, begin, refuse
from kvconform.harness.subject import Subject, TimedSubject
from kvconform.harness.where_time_goes import Sampler, time_line
from kvconform.specs.cells import Cell, cells
from kvconform.specs.operations import OPERATIONS
from kvconform.suites.law import LAWS, Law

__all__ = [
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_report_header",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "subject",
    "timed",
]

NO_IMPLEMENTATION = (
    f"kvconform has no implementation to judge: pass --kv-impl NAME (or a path to an adapter), or write "
    f'impls = ["path/to/adapter.py"] into {HOST_FILE} in the root directory'
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options are prefixed: this tree may stand inside anybody's test suite."""
    group = parser.getgroup("kvconform", "KV-cache conformance")
    add = group.addoption
    add(
        "--kv-impl",
        action="append",
        metavar="NAME",
        help="implementation: built-in name, path to an adapter, or dotted module",
    )
    add("--kv-profile", choices=list(EFFORTS), help=f"{HOW_HARD.rstrip('.').lower()} (default: {DEFAULT_EFFORT})")
    add("--kv-seed", type=int, metavar="N", help="seed of every drawn case (default: 0)")
    add("--kv-op", action="append", metavar="OP", help="only this operation")
    add("--kv-layout", action="append", metavar="LAYOUT", help="only this layout")
    add("--kv-dtype", action="append", metavar="DTYPE", help="only caches of this type")
    add("--kv-law", action="append", metavar="LAW", help="only this law")
    add("--kv-profile-time", action="store_true", help="look where the time goes, and say it at the end")
    add("--kv-case", metavar="CASE", help="judge one case alone: a JSON file, or the JSON itself")
    add("--kv-expect", metavar="FILE", help=f"expectations (default: {FILE_NAME} beside the adapter); 'none' for none")


def pytest_configure(config: pytest.Config) -> None:
    """Load the implementations; a bad adapter ends the session with code 2 and one sentence."""
    begin(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item for each implementation that answers for the law; where there is none, one that is deselected."""
    if "timed" in metafunc.fixturenames:
        _generate_benchmarks(metafunc)
    law: Law | None = getattr(metafunc.function, "law", None)
    if law is None:
        return
    state = metafunc.config.stash[STATE]
    offering = [
        name
        for name, s in state.searchers.items()
        if state.options.takes_law(law) and planned(s.subject, law, state.options)
    ]
    metafunc.parametrize("subject", offering or [None], indirect=True, ids=offering or ["nobody"])


def _generate_benchmarks(metafunc: pytest.Metafunc) -> None:
    """One item for each implementation, operation and layout, in the first dtype that is offered; objects have none."""
    state = metafunc.config.stash[STATE]
    chosen: dict[str, tuple[Searcher, Cell]] = {}
    for searcher in state.searchers.values():
        for op, offer in searcher.subject.offers.items():
            for cell in cells(op, offer, searcher.subject.conventions):
                if not OPERATIONS[op].methods and (not state.options.ops or op in state.options.ops):
                    chosen.setdefault(f"{searcher.subject.name}-{op}-{cell.layout}", (searcher, cell))
    metafunc.parametrize("timed", list(chosen.values()), indirect=True, ids=list(chosen))


@pytest.fixture
def timed(request: pytest.FixtureRequest) -> tuple[Subject, Subject, Cell]:
    """An implementation, the same with the cell's operation under the clock, and the cell."""
    if not request.config.pluginmanager.hasplugin("benchmark"):
        pytest.fail("benchmarks need pytest-benchmark: pip install 'kvconform[bench]'", pytrace=False)
    searcher, cell = request.param
    return searcher.subject, TimedSubject(searcher.subject, cell.op, request.getfixturevalue("benchmark")), cell


def _law_items(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, Law]]:
    for item in items:
        law = getattr(getattr(item, "function", None), "law", None)
        if law is not None:
            yield item, law


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect items without an implementation; with no implementation at all, leave one that fails."""
    state = config.stash[STATE]
    state.judging = any(True for _ in _law_items(items))
    idle = [item for item, _ in _law_items(items) if item.callspec.params["subject"] is None]  # type: ignore[attr-defined]
    gone = set(idle[not state.searchers :])
    if gone:
        config.hook.pytest_deselected(items=list(gone))
        items[:] = [item for item in items if item not in gone]
    unknown = [name for name in state.options.laws if name not in LAWS]
    if unknown and LAWS:
        refuse(state.journal, f"no law {unknown[0]!r}{nearest(unknown[0], LAWS)}", booking.USAGE_EXIT)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Read the expectations, book what is not tried, and write the plan."""
    state = session.config.stash[STATE]
    if not state.judging:
        return
    for searcher in state.searchers.values():
        try:
            searcher.read_expectations(LAWS)
            attested = searcher.subject.attested()
        except AdapterError as e:
            refuse(state.journal, str(e), booking.USAGE_EXIT, e.__cause__)
        plan = _plan(state, searcher)
        if state.sampler is None and session.config.getoption("--kv-profile-time", default=False):
            state.sampler = Sampler()
            state.sampler.start()
        conventions = searcher.subject.conventions.items()
        state.journal.write(
            "plan",
            impl=searcher.subject.name,
            backend=searcher.subject.backend,
            attested=attested,
            conventions={k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in conventions},
            whole_cells=state.options.effort.whole_cells,
            steers_imports=state.steers_imports,
            cells={key: row.to_json() for key, row in plan.items()},
        )
        searcher.closed |= shares.others(plan.values(), state.options.effort.whole_cells)
        searcher.begin(_tries(state, searcher, plan))


def _tries(state: State, searcher: Searcher, plan: Mapping[str, Booked]) -> int:
    """Cases that are to be tried, about, of a plan without what is closed."""
    cells = Counter(row.law for key, row in plan.items() if key not in searcher.closed and row.outcome not in UNTRIED)
    return sum(num * searcher.tries_of(LAWS[law]) for law, num in cells.items())


def _plan(state: State, searcher: Searcher) -> dict[str, Booked]:
    """Every cell of every law that is asked for; a law that is not offered is booked as such here."""
    plan = {}
    for law in LAWS.values():
        if not state.options.takes_law(law):
            continue
        reason = not_offered(searcher.subject, law)
        if reason:
            row = Booked(searcher.subject.name, law.op, "*", "*", law.name, NOT_OFFERED, message=reason)
            state.booked.append(row)
            plan[row.key] = row
        for row in left_out(searcher.subject, law, state.options):
            state.booked.append(row)
            plan[row.key] = row
        plan |= {row.key: row for _, row in planned(searcher.subject, law, state.options)}
    return plan


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Any:
    """The implementation under test, as `suites.law.Subject`."""
    if request.param is None:
        pytest.fail(NO_IMPLEMENTATION, pytrace=False)
    return _Asked(request.config.stash[STATE].searchers[request.param])


class _Asked:
    """What a law's test function sees: it asks for a search, and fails with everything that was found."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    def search(self, law: Law) -> None:
        """Try the law on every cell; one failure lists all cells that are red."""
        __tracebackhide__ = True
        red = [b for b in self._searcher.run(law) if b.outcome in BAD or b.outcome == booking.NOT_REACHED]
        if red:
            pytest.fail("\n\n".join(f"{b.outcome} {b.law} ({b.impl})\n{paste(b)}" for b in red), pytrace=False)


def pytest_report_header(config: pytest.Config) -> str:
    """Which implementations, how hard, from which seed."""
    state = config.stash[STATE]
    names = ", ".join(state.searchers) or "no implementation (--kv-impl)"
    return f"kvconform: {names}; seed {state.options.seed}"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """0, 1, 2 and 3 mean here what they mean on the command line."""
    state = session.config.stash.get(STATE, None)
    if state is None or not state.judging or not state.searchers or exitstatus not in (0, 1, 5):
        return
    seen = state.sampler.stop() if state.sampler else Counter[str]()
    state.time = where_time_goes.shares(seen)
    for searcher in state.searchers.values():
        searcher.journal.write("done", seen=seen, apart=searcher.subject.apart)
    ours = booking.exit_code([b.outcome for b in state.booked])
    others = exitstatus == 1 and ours == booking.OK_EXIT
    session.exitstatus = booking.BAD_EXIT if others else booking.worst([ours, 1 if exitstatus == 1 else 0])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """How many cells of each implementation ended how."""
    state = config.stash.get(STATE, None)
    if state is None or not state.booked:
        return
    terminalreporter.section("kvconform")
    for name, searcher in state.searchers.items():
        rows = [b for b in state.booked if b.impl == name]
        counts = [
            f"{sum(b.outcome == o for b in rows)} {o}" for o in booking.OUTCOMES if any(b.outcome == o for b in rows)
        ]
        examples = sum(b.examples for b in rows)
        terminalreporter.write_line(f"{name}: {', '.join(counts)}; {examples} examples in {searcher.spent:.1f} s")
        for b in rows:
            if b.doubt:
                terminalreporter.write_line(f"{name}: {DOUBTFUL} {b.law}, which passes\n{paste_doubt(b)}")
        if searcher.subject.apart:
            terminalreporter.write_line(f"{name}: {unassigned(searcher.subject.apart)}")
        with suppress(AdapterError):
            terminalreporter.write_line(f"{name}: {attested(searcher.subject.attested())}")
    if state.time:
        terminalreporter.write_line(time_line(state.time))
