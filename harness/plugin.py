"""pytest hooks and the `subject` fixture; the root conftest takes them all.

Implementations come from `--kv-impl`, or from the `impls` of `kvconform.toml` in pytest's root directory where this
tree is vendored (a conftest that is found late has no options). Exit codes are those of the command line: pytest's 5
becomes 3.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kvconform.harness import booking
from kvconform.harness.adapters import ROOT, AdapterError, Found, find, nearest
from kvconform.harness.booking import BAD, NOT_OFFERED, Booked
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.expectations import FILE_NAME
from kvconform.harness.journal import ENV_CLOSED, ENV_PATH, Journal
from kvconform.harness.search import Options, Searcher, not_offered, planned
from kvconform.harness.subject import Subject, TimedSubject
from kvconform.specs.case import Case, CaseError
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.strategies import Cell, cells
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

HOST_FILE = "kvconform.toml"
NO_IMPLEMENTATION = (
    f"kvconform has no implementation to judge: pass --kv-impl NAME (or a path to an adapter), or write "
    f'impls = ["path/to/adapter.py"] into {HOST_FILE} in the root directory'
)


@dataclass
class State:
    """What this session knows.

    searchers      implementation -> what tries laws on it
    booked         everything booked so far, not offered laws included
    judging        whether any law was collected (a session of benchmarks, or of the host's own tests, judges nothing)
    """

    options: Options
    searchers: dict[str, Searcher] = field(default_factory=dict)
    booked: list[Booked] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    judging: bool = False


STATE = pytest.StashKey[State]()


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
    add("--kv-profile", choices=list(EFFORTS), help="how hard to try (default: quick)")
    add("--kv-seed", type=int, metavar="N", help="seed of every drawn case (default: 0)")
    add("--kv-op", action="append", metavar="OP", help="only this operation")
    add("--kv-layout", action="append", metavar="LAYOUT", help="only this layout")
    add("--kv-law", action="append", metavar="LAW", help="only this law")
    add("--kv-case", metavar="CASE", help="judge one case alone: a JSON file, or the JSON itself")
    add("--kv-expect", metavar="FILE", help=f"expectations (default: {FILE_NAME} beside the adapter); 'none' for none")


def pytest_configure(config: pytest.Config) -> None:
    """Load the implementations; a bad adapter ends the session with code 2 and one sentence."""
    journal = Journal(os.environ.get(ENV_PATH))
    try:
        host = _host_file(config)
        config.stash[STATE] = state = State(_options(config, host), journal=journal)
        for ref in _option(config, "impl", host.get("impls", [])):
            _add(config, state, find(_from_root(config, ref) if ref in host.get("impls", []) else ref))
    except AdapterError as e:
        journal.write("error", code=booking.USAGE_EXIT, message=str(e), trace=_trace(e))
        pytest.exit(f"kvconform: {e}", returncode=booking.USAGE_EXIT)


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error.__cause__ or error))


def _host_file(config: pytest.Config) -> dict[str, Any]:
    path = config.rootpath / HOST_FILE
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as e:
        raise AdapterError(f"{path}: cannot be read as TOML: {e}") from e


def _from_root(config: pytest.Config, ref: str) -> str:
    return str(config.rootpath / ref) if ref.endswith(".py") else ref


def _option(config: pytest.Config, name: str, default: Any) -> Any:
    value = config.getoption(f"--kv-{name}", default=None)
    return default if value is None else value


def _options(config: pytest.Config, host: dict[str, Any]) -> Options:
    chosen: dict[str, tuple[str, ...]] = {}
    for name, known in (("op", OPERATIONS), ("layout", LAYOUTS)):
        chosen[name] = tuple(_option(config, name, ()))
        for value in chosen[name]:
            if value not in known:
                raise AdapterError(f"no {name} {value!r}{nearest(value, known)}")
    effort = _option(config, "profile", host.get("profile", "quick"))
    if effort not in EFFORTS:
        raise AdapterError(f"no profile {effort!r}{nearest(effort, EFFORTS)}")
    text = _option(config, "case", None)
    return Options(
        EFFORTS[effort],
        seed=int(_option(config, "seed", host.get("seed", 0))),
        ops=chosen["op"],
        layouts=chosen["layout"],
        laws=tuple(_option(config, "law", ())),
        case=read_case(text) if text else None,
        replay_form=os.environ.get("KVCONFORM_REPLAY") or _pytest_form(),
    )


def _pytest_form() -> str:
    suites = os.path.relpath(ROOT / "suites")
    return f"pytest {suites} --kv-impl {{impl}} --kv-law {{law}} --kv-case {{case}}"


def read_case(text: str) -> Case:
    """A Case from a JSON file or from the JSON itself. Raises AdapterError."""
    try:
        return Case.from_json(
            json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
        )
    except OSError as e:
        raise AdapterError(f"no case file {text!r}: {e.strerror}") from e
    except (json.JSONDecodeError, CaseError, TypeError) as e:
        raise AdapterError(f"the case cannot be read: {e}") from e


def _add(config: pytest.Config, state: State, found: Found) -> None:
    if found.blocked:
        raise AdapterError(f"{found.name} is blocked: {found.blocked}")
    adapter = found.load()
    subject_ = Subject(adapter, found.name, str(found.path), found.ref)
    closed = os.environ.get(ENV_CLOSED, "")
    state.searchers[found.name] = Searcher(
        subject_,
        state.options,
        journal=state.journal,
        closed=frozenset(json.loads(Path(closed).read_text(encoding="utf-8"))) if closed else frozenset(),
        book=state.booked.append,
        expectations_file=_expectations_file(config, found),
    )


def _expectations_file(config: pytest.Config, found: Found) -> Path | None:
    given = _option(config, "expect", None)
    if given is not None:
        return None if given == "none" else Path(given)
    beside = found.path.parent / FILE_NAME
    return beside if beside.is_file() else None


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
    """One item for each implementation, operation and layout, in the first dtype that is offered."""
    state = metafunc.config.stash[STATE]
    chosen: dict[str, tuple[Searcher, Cell]] = {}
    for searcher in state.searchers.values():
        for op, offer in searcher.subject.offers.items():
            for cell in cells(op, offer, searcher.subject.conventions):
                if not state.options.ops or op in state.options.ops:
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
        _refuse(state, f"no law {unknown[0]!r}{nearest(unknown[0], LAWS)}")


def _refuse(state: State, message: str) -> None:
    state.journal.write("error", code=booking.USAGE_EXIT, message=message, trace="")
    pytest.exit(f"kvconform: {message}", returncode=booking.USAGE_EXIT)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Book what is not offered, read the expectations, and write the plan."""
    state = session.config.stash[STATE]
    if not state.judging:
        return
    asked = [law for law in LAWS.values() if state.options.takes_law(law)]
    for searcher in state.searchers.values():
        try:
            searcher.read_expectations(LAWS)
        except AdapterError as e:
            _refuse(state, str(e))
        plan = {}
        for law in asked:
            reason = not_offered(searcher.subject, law)
            if reason:
                row = Booked(searcher.subject.name, law.op, "*", "*", law.name, NOT_OFFERED, message=reason)
                state.booked.append(row)
                plan[row.key] = row.to_json()
            plan |= {b.key: b.to_json() for _, b in planned(searcher.subject, law, state.options)}
        searcher.begin(sum(key not in searcher.closed for key in plan))
        subject_ = searcher.subject
        state.journal.write(
            "plan",
            impl=subject_.name,
            backend=subject_.backend,
            attested=subject_.attested(),
            conventions={
                k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in subject_.conventions.items()
            },
            cells=plan,
        )


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
            pytest.fail("\n\n".join(describe(b) for b in red), pytrace=False)


def describe(b: Booked) -> str:
    """One red cell as a paste: law, message, what it looks like, how to see it again."""
    lines = [f"{b.outcome}: {b.key} ({b.impl})", f"  {b.message}"]
    if b.looks_like:
        lines.append(f"  looks like: {b.looks_like}")
    if b.counterexample:
        lines.append(f"  case: {Case.from_json(b.counterexample)}")
    if b.replay:
        lines.append(f"  replay: {b.replay}")
    return "\n".join(lines)


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
    for searcher in state.searchers.values():
        searcher.journal.write("done")
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
        seconds = time.monotonic() - searcher.started
        terminalreporter.write_line(f"{name}: {', '.join(counts)}; {examples} examples in {seconds:.1f} s")
