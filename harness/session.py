"""What one pytest session is asked to judge: its options, its implementations, and what has been booked.

Everything comes from the options of harness/plugin.py, and, where this tree is vendored and a conftest that is found
late has no options, from `kvconform.toml` in pytest's root directory:

    impls = ["path/to/my_kernel.py"]
    profile = "default"
    seed = 0
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kvconform.harness import booking
from kvconform.harness.adapters import ROOT, AdapterError, BlockedError, Found, find, nearest
from kvconform.harness.booking import Booked
from kvconform.harness.efforts import DEFAULT_EFFORT, EFFORTS
from kvconform.harness.expectations import FILE_NAME
from kvconform.harness.journal import ENV_CLOSED, ENV_PATH, Journal
from kvconform.harness.plan import CACHE_DTYPES, COMMAND, Lines, Options
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.harness.where_time_goes import Sampler
from kvconform.specs.case import Case, CaseError
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.operations import OPERATIONS

HOST_FILE = "kvconform.toml"
HOST_KEYS = ("impls", "profile", "seed")


@dataclass
class State:
    """What this session knows.

    searchers   implementation -> what tries laws on it
    booked      everything booked so far, cells included that are not tried
    steers_imports   whether adapters changed as they were imported what decides which modules are found or what
                these read: environment variables, or sys.path
    judging     whether any law was collected (a session of benchmarks, or of the host's own tests, judges nothing)
    sampler     what looks where the time goes, where that was asked for;  time: what it saw
    """

    options: Options
    searchers: dict[str, Searcher] = field(default_factory=dict)
    booked: list[Booked] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    steers_imports: bool = False
    judging: bool = False
    sampler: Sampler | None = None
    time: dict[str, float] = field(default_factory=dict)


STATE = pytest.StashKey[State]()


def begin(config: pytest.Config) -> None:
    """Put a State into the config; what cannot be used ends the session with its exit code and one sentence."""
    journal = Journal(os.environ.get(ENV_PATH))
    try:
        host = _host_file(config)
        config.stash[STATE] = state = State(_options(config, host), journal=journal)
        of_host = [_from_root(config, ref) for ref in host.get("impls", [])]
        for ref in _asked(config, "impl", of_host):
            _add(config, state, find(ref))
    except AdapterError as e:
        code = booking.NOTHING_EXIT if isinstance(e, BlockedError) else booking.USAGE_EXIT
        refuse(journal, str(e), code, e.__cause__ or e)


def refuse(journal: Journal, message: str, code: int, cause: BaseException | None = None) -> NoReturn:
    """End the session: a line in the journal, a sentence on the terminal."""
    import traceback

    trace = "".join(traceback.format_exception(cause)) if cause is not None else ""
    journal.write("error", code=code, message=message, trace=trace)
    pytest.exit(f"kvconform: {message}", returncode=code)


def _host_file(config: pytest.Config) -> dict[str, Any]:
    path = config.rootpath / HOST_FILE
    if not path.is_file():
        return {}
    try:
        host = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as e:
        raise AdapterError(f"{path}: cannot be read as TOML: {e}") from e
    for key in host:
        if key not in HOST_KEYS:
            raise AdapterError(f"{path}: names {key!r}{nearest(key, HOST_KEYS)}")
    return host


def _from_root(config: pytest.Config, ref: str) -> str:
    return str(config.rootpath / ref) if ref.endswith(".py") else ref


def _asked(config: pytest.Config, name: str, default: Any) -> Any:
    value = config.getoption(f"--kv-{name}", default=None)
    return default if value is None else value


def _options(config: pytest.Config, host: dict[str, Any]) -> Options:
    chosen: dict[str, tuple[str, ...]] = {}
    for name, known in (("op", OPERATIONS), ("layout", LAYOUTS), ("dtype", CACHE_DTYPES)):
        chosen[name] = tuple(_asked(config, name, ()))
        for value in chosen[name]:
            if value not in known:
                raise AdapterError(f"no {name} {value!r}{nearest(value, known)}")
    effort = _asked(config, "profile", host.get("profile", DEFAULT_EFFORT))
    if effort not in EFFORTS:
        raise AdapterError(f"no profile {effort!r}{nearest(effort, EFFORTS)}")
    text = _asked(config, "case", None)
    return Options(
        EFFORTS[effort],
        seed=int(_asked(config, "seed", host.get("seed", 0))),
        ops=chosen["op"],
        layouts=chosen["layout"],
        laws=tuple(_asked(config, "law", ())),
        case=read_case(text) if text else None,
        dtypes=chosen["dtype"],
        lines=COMMAND if ENV_PATH in os.environ else _pytest_lines(),
    )


def _pytest_lines() -> Lines:
    run = f"pytest {os.path.relpath(ROOT / 'suites')} --kv-impl {{impl}}"
    return Lines(f"{run} --kv-law {{law}} --kv-case {{case}}", run, "--kv-")


def read_case(text: str) -> Case:
    """A Case from a JSON file or from the JSON itself. Raises AdapterError."""
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        return Case.from_json(json.loads(text))
    except OSError as e:
        raise AdapterError(f"no case file {text!r}: {e.strerror}") from e
    except (json.JSONDecodeError, CaseError, TypeError) as e:
        raise AdapterError(f"the case cannot be read: {e}") from e


def _add(config: pytest.Config, state: State, found: Found) -> None:
    if found.blocked:
        raise BlockedError(f"{found.name} is blocked: {found.blocked}")
    if found.name in state.searchers:
        raise AdapterError(f"two implementations are called {found.name!r}: give one of them another NAME")
    closed, before = os.environ.get(ENV_CLOSED, ""), (dict(os.environ), sys.path[:])
    adapter = found.load()
    state.steers_imports |= before != (dict(os.environ), sys.path)
    state.searchers[found.name] = Searcher(
        Subject(adapter, found.name, found.file, found.ref),
        state.options,
        journal=state.journal,
        closed=frozenset(json.loads(Path(closed).read_text(encoding="utf-8"))) if closed else frozenset(),
        book=state.booked.append,
        expectations_file=_expectations_file(config, found),
        expectations_beside=_asked(config, "expect", None) is None,
    )


def _expectations_file(config: pytest.Config, found: Found) -> Path | None:
    given = _asked(config, "expect", None)
    if given is not None:
        return None if given == "none" else Path(given)
    beside = found.path.parent / FILE_NAME
    return beside if beside.is_file() else None
