"""A run survives its kernels: one child process an implementation, and only its journal is believed.

A child that dies or stalls costs the cell in flight, with its case; where a violation had been found and only its
diagnosis was left, the violation stands. The supervisor starts another without the closed cells. Three deaths close an
operation. The exit code proves nothing (a kernel may call `os._exit(0)`): a run is over when `done` stands in the
journal.
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
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from kvconform.harness import booking, journal
from kvconform.harness.adapters import ROOT, Found
from kvconform.harness.booking import BLOCKED, CRASHED, NOT_REACHED, TIMED_OUT, Booked, Run
from kvconform.harness.diagnoses import unasked
from kvconform.harness.efforts import STALL_SECONDS, STARTING_FACTOR
from kvconform.harness.search import replay_line

MAX_DEATHS = 3
"""An operation that killed so many children is closed."""

POLL_SECONDS = 0.02


class Listener(Protocol):
    """Told of progress, from several threads where several implementations are judged at a time."""

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
    replay_form: str,
    stall: float = STALL_SECONDS,
) -> list[Run]:
    """Judge implementations, `jobs` at a time; what is booked comes in the order of `found`, whoever ends first.

    Ctrl-C, or an error of this suite's own, ends the children of all of them.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            tasks = [
                pool.submit(supervise, one, arguments, listener, replay_form=replay_form, stall=stall, stop=stop)
                for one in found
            ]
            for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                task.result()  # raises what it raised
            return [task.result() for task in tasks]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def supervise(
    found: Found,
    arguments: Sequence[str],
    listener: Listener,
    *,
    replay_form: str,
    stall: float = STALL_SECONDS,
    stop: threading.Event | None = None,
) -> Run:
    """Judge one implementation in children of its own.

    arguments     options of the pytest plugin, without --kv-impl; each as one word, `--kv-seed=1`, since pytest takes a
                  lone path for a folder to load a conftest from
    replay_form   how a counterexample is replayed (harness.search.Options)
    stall         seconds of silence after which a call is taken to hang
    stop          when set, its child is ended and nothing is booked any more
    """
    run = Run(found.name, str(found.literals["BACKEND"]), found.ref, found.versions)
    start = time.monotonic()
    if found.blocked:
        run.exit, run.message = booking.NOTHING_EXIT, found.blocked
        run.cells["*"] = Booked(run.name, "*", "*", "*", "*", BLOCKED, message=found.blocked)
        return run
    with tempfile.TemporaryDirectory(prefix="kvconform-") as folder:
        _Supervisor(found, arguments, listener, run, Path(folder), replay_form, stall, stop or threading.Event()).run()
    run.seconds = time.monotonic() - start
    return run


class _Supervisor:
    def __init__(
        self,
        found: Found,
        arguments: Sequence[str],
        listener: Listener,
        run: Run,
        folder: Path,
        replay_form: str,
        stall: float,
        stop: threading.Event,
    ) -> None:
        self.found, self.arguments, self.listener, self.book = found, arguments, listener, run
        self.folder, self.form, self.stall, self.stop = folder, replay_form, stall, stop
        self.closed: set[str] = set()
        self.deaths: Counter[str] = Counter()

    def run(self) -> None:
        """Start children until one is done, the adapter is refused, or nothing is left to try."""
        while True:
            watch = self._watch()
            if watch.error is not None:
                self.book.exit, self.book.message = watch.error["code"], watch.error["message"]
                if os.environ.get("KVCONFORM_DEBUG"):
                    self.book.message += "\n" + watch.error["trace"]
                return
            if watch.done:
                self._explain_not_reached(watch.tail())
                return
            if watch.key is None:
                self.book.exit = booking.USAGE_EXIT
                self.book.message = f"{self.found.path}: {watch.said()} outside any call\n{watch.tail()}".strip()
                return
            self._bury(watch)

    def _watch(self) -> _Watch:
        closed = self.folder / "closed.json"
        closed.write_text(json.dumps(sorted(self.closed)), encoding="utf-8")
        path = self.folder / f"journal-{len(self.closed)}-{sum(self.deaths.values())}.jsonl"
        path.touch()
        command = [
            sys.executable,
            "-P",
            str(ROOT / "__main__.py"),
            "child",
            f"--kv-impl={self._ref()}",
            *self.arguments,
        ]
        environment = _without_pytest(os.environ) | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # whatever pytest plugins stand around have no say in a verdict
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.folder / "hypothesis"),
            journal.ENV_PATH: str(path),
            journal.ENV_CLOSED: str(closed),
            "KVCONFORM_REPLAY": self.form,
            **{str(k): str(v) for k, v in self.found.literals["ENV"].items()},
        }
        if self.found.module and not self.found.is_builtin:
            environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p and Path(p).resolve() != ROOT)
        with (self.folder / "log").open("wb") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            watch = _Watch(child, path, self.folder / "log", STARTING_FACTOR * self.stall)
            try:
                self._follow(watch)
            finally:
                _kill(child)
        return watch

    def _ref(self) -> str:
        return str(self.found.path) if self.found.module is None else self.found.ref

    def _follow(self, watch: _Watch) -> None:
        """Read the journal until the child ends or falls silent for too long."""
        beat = time.monotonic()
        while True:
            ended = watch.child.poll() is not None
            for row in watch.read():
                beat = time.monotonic()
                self._take(watch, row)
            if ended or watch.done:  # a thread that a kernel left behind may keep the process alive
                return
            if time.monotonic() - beat > watch.patience:
                watch.stalled = True
                return
            if self.stop.wait(POLL_SECONDS):
                raise _Interrupted

    def _take(self, watch: _Watch, row: dict[str, Any]) -> None:
        kind = row["kind"]
        if kind == "plan":
            self.book.name, self.book.backend = row["impl"], row["backend"]
            self.book.conventions, self.book.attested = row["conventions"], row["attested"]
            for key, cell in row["cells"].items():
                self.book.cells.setdefault(key, Booked(**cell))
            self.listener.planned(self.book)
        elif kind == "case":
            if watch.key != row["key"]:
                watch.examples = 0
            watch.key, watch.case = row["key"], row["case"]
            watch.examples += 1
        elif kind == "found":
            watch.found, watch.patience = Booked(**row["cell"]), self.stall
        elif kind == "booked":
            cell = Booked(**row["cell"])
            self.book.attested = row["attested"]
            watch.key = watch.case = watch.found = None
            watch.patience = self.stall
            self._close(cell)
        elif kind == "error":
            watch.error = row
        elif kind == "done":
            watch.done = True
            self.book.time = row["time"]

    def _close(self, cell: Booked) -> None:
        self.book.cells[cell.key] = cell
        self.closed.add(cell.key)
        self.listener.closed(self.book, cell)

    def _bury(self, watch: _Watch) -> None:
        """Book the cell that a child died in."""
        assert watch.key is not None
        if watch.found is not None:
            self._keep(watch, watch.found)
            return
        cell = self.book.cells[watch.key]
        cell.outcome = TIMED_OUT if watch.stalled else CRASHED
        cell.examples = watch.examples
        cell.message = f"{watch.said()} inside a call of {cell.op}; the case is the one in flight, not made smaller"
        cell.counterexample = (watch.case or {}) | {"law": cell.law}
        cell.replay = replay_line(self.form, cell.counterexample, self.found.ref, cell.law)
        self._close(cell)
        self.deaths[cell.op] += 1
        if self.deaths[cell.op] < MAX_DEATHS:
            return
        for other in list(self.book.cells.values()):
            if other.op == cell.op and other.key not in self.closed and other.outcome == NOT_REACHED:
                other.message = f"{cell.op} ended {MAX_DEATHS} processes; the rest of it was not tried"
                self._close(other)

    def _keep(self, watch: _Watch, found: Booked) -> None:
        """Book a violation as it was found before the child died of a probe; its operation is not probed again."""
        op = (watch.case or {}).get("op", found.op)
        found.diagnosis = f"cannot be told: {watch.said()} inside a call of {op} that was to tell it"
        self.closed.add(unasked(op))
        self._close(found)

    def _explain_not_reached(self, log: str) -> None:
        for cell in self.book.cells.values():
            if cell.outcome == NOT_REACHED and not cell.message:
                cell.message = f"the suite ended before this cell was booked\n{log}"


class _Watch:
    """One child and what its journal has said; `patience`: seconds of silence after which it is taken to hang."""

    def __init__(self, child: subprocess.Popen[bytes], path: Path, log: Path, patience: float) -> None:
        self.child, self._path, self._log, self._offset, self.patience = child, path, log, 0, patience
        self.key: str | None = None
        self.case: dict[str, Any] | None = None
        self.found: Booked | None = None
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
