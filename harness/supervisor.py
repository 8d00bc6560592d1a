"""A run survives its kernels: they run in child processes, and only a child's journal is believed.

A child that dies or stalls costs the cell in flight, with its case; where a violation had been found and only its
diagnosis was left, the violation stands. The supervisor starts another without the closed cells. Three deaths close an
operation: what stands behind the third in the plan is not tried. The exit code proves nothing (a kernel may call
`os._exit(0)`): a run is over when `done` stands in the journal.

Where cores are idle, the cells of one implementation are shared out among several children (harness/shares.py). The
first writes the plan, and is told then which cells are its own; the second starts beside it, and waits for that. How
a cell ends does not depend on their number.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kvconform.harness import booking, journal, shares
from kvconform.harness.adapters import ROOT, Found
from kvconform.harness.booking import BLOCKED, CRASHED, NOT_REACHED, TIMED_OUT, Booked, Run
from kvconform.harness.diagnoses import unasked, unimported
from kvconform.harness.efforts import STALL_SECONDS, STARTING_FACTOR
from kvconform.harness.plan import COMMAND
from kvconform.harness.search import replay_line
from kvconform.harness.where_time_goes import shares as time_shares

MAX_DEATHS = 3
"""An operation in so many of whose cells children died is closed."""

EARLY = 1
"""The share whose process starts before it is known whether it is needed: one, since many may be started in vain."""

POLL_SECONDS = 0.02

_T = TypeVar("_T")


class Listener(Protocol):
    """Told of progress, from several threads where several implementations are judged at a time, or one by several
    children."""

    def planned(self, run: Run) -> None:
        """The plan is known."""
        ...

    def closed(self, run: Run, cell: Booked) -> None:
        """A cell is closed."""
        ...


class _Interrupted(Exception):
    """Whoever judges several implementations wants no more of any."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def supervise_all(
    found: Sequence[Found],
    arguments: Sequence[str],
    listener: Listener,
    *,
    jobs: int,
    stall: float = STALL_SECONDS,
) -> list[Run]:
    """Judge implementations, in `jobs` processes at a time; what is booked comes in the order of `found`.

    Each has one process, or as many as there are jobs for each of those that can run here and stand behind it: where
    the last ones are left, no core is idle. Ctrl-C, or an error of this suite's own, ends the children of all of them.
    """
    stop, slots = threading.Event(), threading.Semaphore(jobs)
    how: dict[str, Any] = {"stall": stall, "stop": stop, "slots": slots}
    left = [max(1, sum(not one.blocked for one in found[i:])) for i in range(len(found))]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            return _all_of(
                [
                    pool.submit(supervise, one, arguments, listener, **how, processes=max(1, jobs // behind))
                    for one, behind in zip(found, left, strict=True)
                ]
            )
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _all_of(tasks: list[Future[_T]]) -> list[_T]:
    """What each returns; raises at once what one of them raises."""
    for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
        task.result()
    return [task.result() for task in tasks]


def supervise(
    found: Found,
    arguments: Sequence[str],
    listener: Listener,
    *,
    stall: float = STALL_SECONDS,
    stop: threading.Event | None = None,
    slots: threading.Semaphore | None = None,
    processes: int = 1,
) -> Run:
    """Judge one implementation in children of its own.

    arguments     options of the pytest plugin, without --kv-impl; each as one word, `--kv-seed=1`, since pytest takes a
                  lone path for a folder to load a conftest from
    stall       seconds of silence after which a call is taken to hang
    stop        when set, its children are ended and nothing is booked any more
    processes   children at a time, at most
    """
    run = Run(found.name, str(found.literals["BACKEND"]), found.ref, found.versions)
    start = time.monotonic()
    if found.blocked:
        run.exit, run.message = booking.NOTHING_EXIT, found.blocked
        run.cells["*"] = Booked(run.name, "*", "*", "*", "*", BLOCKED, message=found.blocked)
        return run
    with tempfile.TemporaryDirectory(prefix="kvconform-") as folder:
        how = _How(found, arguments, Path(folder), stall, processes, slots or threading.Semaphore(processes))
        _Book(run, listener, how, stop or threading.Event()).fill()
    run.seconds = time.monotonic() - start
    return run


@dataclass(frozen=True)
class _How:
    """What every child of an implementation is started with.

    processes   how many at a time, at most
    slots       of which each child takes one
    """

    found: Found
    arguments: Sequence[str]
    folder: Path
    stall: float
    processes: int
    slots: threading.Semaphore


class _Book:
    """What is booked of one implementation, by the threads that each follow one of its children.

    over       set: the adapter cannot be judged
    begun      set: the first child has a slot, which no other one may take from it
    dealt      set: the plan is known, and whose each cell is, or there will be none
    early      whether it makes no difference that modules are imported before the adapter is, as far as can be seen
    closed     cells that are booked;  dead: those that a child died in
    owner      cell -> its share, in the order of the plan
    attested   share -> what its child attested last
    """

    def __init__(self, run: Run, listener: Listener, how: _How, stop: threading.Event) -> None:
        self.run, self.listener, self.how, self.stop = run, listener, how, stop
        self.lock = threading.RLock()
        self.over, self.begun, self.dealt = threading.Event(), threading.Event(), threading.Event()
        self.early = True
        self.closed: set[str] = set()
        self.dead: set[str] = set()
        self.owner: dict[str, int] = {}
        self.attested: dict[int, dict[str, Any]] = {}
        self.seen: Counter[str] = Counter()

    def fill(self) -> None:
        """Follow the first child, and those beside it that the plan turns out to be worth."""
        with ThreadPoolExecutor(max_workers=self.how.processes) as pool:
            others = [pool.submit(_Share(self, share).run) for share in range(1, self.how.processes)]
            try:
                _Share(self, 0).run()
                self.dealt.set()
                _all_of(others)
            except BaseException:
                self.over.set()
                raise
        self.run.time = time_shares(self.seen)

    def planned(self, row: Mapping[str, Any]) -> None:
        """Take the plan, and deal its cells when it comes for the first time."""
        run = self.run
        with self.lock:
            run.name, run.backend, run.conventions = row["impl"], row["backend"], row["conventions"]
            for key, cell in row["cells"].items():
                run.cells.setdefault(key, Booked(**cell))
            self.listener.planned(run)
            if not self.dealt.is_set():
                run.processes = shares.num_shares(run.cells.values(), row["attested"], self.how.processes)
                self.owner = shares.deal(run.cells.values(), run.processes, row["whole_cells"])
                self.early = not row["steers_imports"]
                self.dealt.set()

    def attest(self, share: int, said: dict[str, Any]) -> None:
        """Take what a child's adapter attests: counts are added up."""
        with self.lock:
            self.attested[share] = said
            total = dict(self.attested[min(self.attested)])
            for name, value in total.items():
                if type(value) is int:
                    total[name] = sum(one.get(name, 0) for one in self.attested.values())
            self.run.attested = total

    def close(self, cell: Booked) -> None:
        """Book a cell, unless its operation was closed before it."""
        with self.lock:
            if cell.key not in self.closed:
                self.run.cells[cell.key] = cell
                self.closed.add(cell.key)
                self.listener.closed(self.run, cell)

    def bury(self, cell: Booked) -> None:
        """Book a cell that a child died in; what stands behind the third one of its operation is not tried.

        Another child may have been quicker: what it booked of these cells is taken back.
        """
        with self.lock:
            self.close(cell)
            self.dead.add(cell.key)
            every = [key for key in self.owner if self.run.cells[key].op == cell.op]
            deaths = [i for i, key in enumerate(every) if key in self.dead]
            for key in every[deaths[MAX_DEATHS - 1] + 1 :] if len(deaths) >= MAX_DEATHS else ():
                untried = _blank(self.run.cells[key])
                untried.message = f"{cell.op} ended {MAX_DEATHS} processes; the rest of it was not tried"
                self.close(untried)
                self.run.cells[key] = untried

    def fail(self, code: int, message: str) -> None:
        """The adapter cannot be judged: all of its children are ended."""
        with self.lock:
            if not self.over.is_set():
                self.run.exit, self.run.message = code, message
            self.over.set()


def _blank(cell: Booked) -> Booked:
    """A cell as it is planned."""
    return Booked(cell.impl, cell.op, cell.layout, cell.dtype, cell.law)


class _Share:
    """Follows one child at a time, which tries one share of the cells."""

    def __init__(self, book: _Book, share: int) -> None:
        self.book, self.how, self.share = book, book.how, share
        self.unasked: set[str] = set()
        self.starts = 0

    def run(self) -> None:
        """Start children in a slot until one is done, the adapter is refused, or nothing is left to try."""
        if self.share:
            self._wait(self.book.begun if self.share == EARLY else self.book.dealt)
        if not self._wait_for(partial(self.how.slots.acquire, timeout=POLL_SECONDS)):
            return
        self.book.begun.set()
        try:
            self._run()
        finally:
            self.how.slots.release()

    def _wait(self, event: threading.Event) -> None:
        self._wait_for(partial(event.wait, POLL_SECONDS))

    def _wait_for(self, come: Callable[[], bool]) -> bool:
        """Wait for what comes, each time for a moment; False where there is nothing to wait for any more."""
        while not come():
            if self.book.stop.is_set():
                raise _Interrupted
            if self.book.over.is_set() or self._is_idle():
                return False
        return True

    def _is_idle(self) -> bool:
        """Whether it is known that there are no cells for it."""
        return self.book.dealt.is_set() and self.share >= self.book.run.processes

    def _run(self) -> None:
        while not self.book.over.is_set():
            if self._is_idle():
                return
            watch = self._watch()
            if watch.early:  # it ended before it had a plan, or will not do: the next one is not early
                self._wait(self.book.dealt)
            elif watch.error is not None:
                trace = "\n" + watch.error["trace"] if os.environ.get("KVCONFORM_DEBUG") else ""
                self.book.fail(watch.error["code"], watch.error["message"] + trace)
            elif watch.done:
                self._explain_not_reached(watch.tail())
                return
            elif watch.key is not None:
                self._bury(watch)
            elif not self.book.over.is_set():
                said = f"{self.how.found.path}: {watch.said()} outside any call\n{watch.tail()}".strip()
                self.book.fail(booking.USAGE_EXIT, said)

    def _watch(self) -> _Watch:
        how, self.starts = self.how, self.starts + 1
        early = self.share == EARLY and not self.book.dealt.is_set()
        closed, path, log = (
            how.folder / f"{name}-{self.share}-{self.starts}" for name in ("closed.json", "journal.jsonl", "log")
        )
        with self.book.lock:
            closed.write_text(json.dumps(sorted(self.book.closed | self.unasked)), encoding="utf-8")
        path.touch()
        command = [
            sys.executable,
            "-P",
            str(ROOT / "__main__.py"),
            "child",
            f"--kv-impl={self._ref()}",
            *how.arguments,
        ]
        read, write = os.pipe()
        environment = _without_pytest(os.environ) | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # whatever pytest plugins stand around have no say in a verdict
            "HYPOTHESIS_STORAGE_DIRECTORY": str(how.folder / "hypothesis"),
            journal.ENV_PATH: str(path),
            journal.ENV_CLOSED: str(closed),
            shares.ENV_SHARE: str(read),
            **{str(k): str(v) for k, v in how.found.literals["ENV"].items()},
        }
        if early:
            environment[shares.ENV_EARLY] = ",".join(how.found.literals["REQUIRES"])
        if how.found.module and not how.found.is_builtin:
            environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p and Path(p).resolve() != ROOT)
        with log.open("wb") as file, open(write, "wb", buffering=0) as tells:
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    start_new_session=True,
                    pass_fds=(read,),
                )
            finally:
                os.close(read)
            watch = _Watch(child, path, log, STARTING_FACTOR * how.stall, tells, early)
            try:
                if not early and self.share:
                    self._tell(watch)
                self._follow(watch)
            finally:
                _kill(child)
        return watch

    def _ref(self) -> str:
        found = self.how.found
        return str(found.path) if found.module is None else found.ref

    def _follow(self, watch: _Watch) -> None:
        """Read the journal until the child ends or falls silent for too long."""
        beat = time.monotonic()
        while True:
            ended = watch.child.poll() is not None
            if watch.early and not watch.told and self.book.dealt.is_set():
                if not self.book.early or self._is_idle():
                    return
                self._tell(watch)
                beat = time.monotonic()
            for row in watch.read():
                beat = time.monotonic()
                self._take(watch, row)
            if ended or watch.done:  # a thread that a kernel left behind may keep the process alive
                return
            if time.monotonic() - beat > watch.patience and (watch.told or not watch.early):
                watch.stalled = True
                return
            if self.book.stop.wait(POLL_SECONDS):
                raise _Interrupted
            if self.book.over.is_set():
                watch.key = None
                return

    def _take(self, watch: _Watch, row: dict[str, Any]) -> None:
        kind = row["kind"]
        if kind == "plan":
            watch.early = False
            self.book.planned(row)
            self.book.attest(self.share, row["attested"])
            if not self.share:
                self._tell(watch)
        elif kind == "case":
            if watch.key != row["key"]:
                watch.examples = 0
            watch.key, watch.case = row["key"], row["case"]
            watch.examples += 1
        elif kind == "found":
            watch.found, watch.alone, watch.patience = Booked(**row["cell"]), row.get("alone", False), self.how.stall
        elif kind == "booked":
            self.book.attest(self.share, row["attested"])
            watch.key = watch.case = watch.found = None
            watch.patience = self.how.stall
            self.book.close(Booked(**row["cell"]))
        elif kind == "error":
            watch.error = row
        elif kind == "done":
            watch.done = True
            with self.book.lock:
                self.book.seen.update(row["seen"])
                self.book.run.apart = self.book.run.apart or row["apart"]

    def _tell(self, watch: _Watch) -> None:
        watch.told = True
        with suppress(OSError):  # it may have died since
            watch.tells.write(shares.told(self.share, self.book.run.processes))

    def _bury(self, watch: _Watch) -> None:
        """Book the cell that a child died in."""
        assert watch.key is not None
        if watch.found is not None:
            self._keep(watch, watch.found)
            return
        cell = _blank(self.book.run.cells[watch.key])
        cell.outcome = TIMED_OUT if watch.stalled else CRASHED
        cell.examples = watch.examples
        cell.message = f"{watch.said()} inside a call of {cell.op}; the case is the one in flight, not made smaller"
        cell.counterexample = (watch.case or {}) | {"law": cell.law}
        cell.replay = replay_line(COMMAND.replay, cell.counterexample, self.how.found.ref, cell.law)
        self.book.bury(cell)

    def _keep(self, watch: _Watch, found: Booked) -> None:
        """Book a violation as it was found before the child died of what was to explain it, and not try that again."""
        op = (watch.case or {}).get("op", found.op)
        if watch.alone:
            found.alone = f"whether it violates alone cannot be told: {watch.said()} in a fresh import of the adapter"
            self.unasked.add(unimported(found.op))
        else:
            found.diagnosis = f"cannot be told: {watch.said()} inside a call of {op} that was to tell it"
            self.unasked.add(unasked(op))
        self.book.close(found)

    def _explain_not_reached(self, log: str) -> None:
        """The child has tried all that was its own."""
        with self.book.lock:
            for key, share in self.book.owner.items():
                cell = self.book.run.cells[key]
                if cell.outcome == NOT_REACHED and not cell.message and share == self.share:
                    cell.message = f"the suite ended before this cell was booked\n{log}"


class _Watch:
    """One child and what its journal has said.

    patience   seconds of silence after which it is taken to hang
    tells      where it learns its share;  told: whether it has
    early      it waits for that with its imports made, and is no part of the run before it has a plan
    found      a violation that is being explained;  alone: by its case in a fresh import, not by probes
    """

    def __init__(
        self, child: subprocess.Popen[bytes], path: Path, log: Path, patience: float, tells: RawIOBase, early: bool
    ) -> None:
        self.child, self._path, self._log, self._offset, self.patience = child, path, log, 0, patience
        self.tells, self.told, self.early = tells, False, early
        self.key: str | None = None
        self.case: dict[str, Any] | None = None
        self.found: Booked | None = None
        self.alone = False
        self.error: dict[str, Any] | None = None
        self.examples = 0
        self.done = self.stalled = False

    def read(self) -> list[dict[str, Any]]:
        """New lines."""
        rows, self._offset = journal.read(self._path, self._offset)
        return rows

    def said(self) -> str:
        """How it went silent: `no answer for 20 s`, `the process ended (SIGSEGV)`."""
        if self.stalled:
            return f"no answer for {self.patience:g} s"
        code = self.child.poll()
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"the process ended ({name})"

    def tail(self) -> str:
        """The last lines that the child printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()


def _without_pytest(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a surrounding pytest, or its user, set for another session."""
    return {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and everything it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
