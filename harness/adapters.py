"""Finds an adapter by built-in name, path, dotted name or entry point, and holds it to the form of one.

Nothing is imported to find out what an adapter needs: NAME, BACKEND, REQUIRES, PROGRAMS and ENV are literals, read
from the source. Every complaint is one sentence that names the file, the value and the way out.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import kvconform
from kvconform.specs.cells import POOL, vocabulary
from kvconform.specs.conventions import CONVENTIONS
from kvconform.specs.dtypes import DTYPES, FORMATS, PACKED
from kvconform.specs.features import FEATURES
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.offers import flaw, holds, members
from kvconform.specs.operations import OPERATIONS, WORKSPACE
from kvconform.specs.profile import Profile

GROUP = "kvconform.impls"
"""Entry-point group under which an installed package offers its adapters."""

ROOT = Path(str(kvconform.__file__)).resolve().parent
LITERALS: dict[str, Any] = {"NAME": "", "BACKEND": "", "REQUIRES": (), "PROGRAMS": (), "ENV": {}}


class AdapterError(Exception):
    """An adapter that cannot be used, or a name that means none. One sentence."""


class BlockedError(AdapterError):
    """An adapter that needs what this machine does not have. One sentence."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'nhd'?`, or the known names where none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(name.lower(), known, 1)
    near = near or [one for one in known if name in one]
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


@dataclass(frozen=True)
class Found:
    """An adapter that has been located, not imported.

    ref        what the user wrote
    path       its file
    module     its dotted name, or None for a file
    literals   its constants
    """

    ref: str
    path: Path
    module: str | None
    literals: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the implementation."""
        return self.literals["NAME"] or self.path.stem

    @property
    def blocked(self) -> str:
        """Why it cannot run here, or nothing."""
        missing = [name for name in self.literals["REQUIRES"] if not _importable(name)]
        if missing:
            extra = f"'kvconform[{self.literals['BACKEND']}]'" if self.is_builtin else " ".join(missing)
            return f"needs {', '.join(missing)}: pip install {extra}"
        programs = self.literals["PROGRAMS"]
        if programs and not any(map(shutil.which, programs)):
            return f"needs one of {', '.join(programs)} on PATH"
        return ""

    @property
    def file(self) -> str:
        """Its file for people: of a built-in one within this tree, whatever machine that stands on."""
        return str(self.path.relative_to(ROOT) if self.is_builtin else self.path)

    @property
    def versions(self) -> dict[str, str]:
        """Installed versions of what it requires, where they are packages of that name."""
        found = {}
        for name in self.literals["REQUIRES"]:
            with suppress(PackageNotFoundError):
                found[name] = version(name)
        return found

    @property
    def is_builtin(self) -> bool:
        """Whether it stands in this tree's own impls/."""
        return self.path.parent == ROOT / "impls"

    def load(self) -> Any:
        """Import it and check its form. Raises AdapterError."""
        try:
            if self.module is not None:
                adapter: Any = importlib.import_module(self.module)
            else:
                adapter = _from_file(self.path)
        except BaseException as e:  # whatever an adapter raises while it is imported is the adapter's
            at = _line_in(self.path, e)
            raise AdapterError(f"{self.path}{at}: does not import: {type(e).__name__}: {e}") from e
        check(adapter, str(self.path), self.name)
        return adapter


def builtin() -> dict[str, Path]:
    """Name -> file of the implementations that come with the suite."""
    return {p.stem: p for p in sorted((ROOT / "impls").glob("*.py")) if not p.stem.startswith("_")}


def adapters_in(folder: Path) -> list[str]:
    """Names of the adapters whose files stand in a folder."""
    names = []
    for path in sorted(folder.glob("*.py")):
        with suppress(AdapterError):
            names.append(_literals(path)["NAME"] or path.stem)
    return names


def find(ref: str) -> Found:
    """Locate an adapter. Raises AdapterError when the name means nothing."""
    if ref.endswith(".py") or "/" in ref:
        path = Path(ref).expanduser().resolve()
        if not path.is_file():
            raise AdapterError(f"{ref}: no such adapter file")
        return Found(ref, path, None, _literals(path))
    if ref in builtin():
        return Found(ref, builtin()[ref], f"kvconform.impls.{ref}", _literals(builtin()[ref]))
    offered = {point.name: point.value for point in entry_points(group=GROUP)}
    module = offered.get(ref, ref)
    if "." not in module and ref not in offered:
        raise AdapterError(f"no implementation {ref!r}{nearest(ref, [*builtin(), *offered])}")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as e:
        raise AdapterError(f"{module}: no such module: {e}") from e
    if spec is None or spec.origin is None:
        raise AdapterError(f"no module {module!r} (sys.path begins with {sys.path[0]!r})")
    return Found(ref, Path(spec.origin).resolve(), module, _literals(Path(spec.origin)))


def everything() -> list[Found]:
    """All built-in implementations and those of installed packages."""
    return [
        find(name) for name in [*builtin(), *(p.name for p in entry_points(group=GROUP) if p.name not in builtin())]
    ]


def of_backend(backend: str) -> list[Found]:
    """All implementations of one backend. Raises AdapterError when there is none."""
    known = everything()
    of_it = [one for one in known if one.literals["BACKEND"] == backend]
    if not of_it:
        raise AdapterError(f"no backend {backend!r}{nearest(backend, {str(one.literals['BACKEND']) for one in known})}")
    return of_it


def _literals(path: Path) -> dict[str, Any]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError) as e:
        raise AdapterError(f"{path}: does not parse: {e}") from e
    found = dict(LITERALS)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in found:
            name = node.targets[0].id
            try:
                found[name] = ast.literal_eval(node.value)
            except ValueError as e:
                raise AdapterError(f"{path}:{node.lineno}: {name} must be a literal; it is read before import") from e
    return found


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _from_file(path: Path) -> Any:
    """Import a file without putting its folder on sys.path, where `numpy.py` would hide numpy."""
    name = f"kvconform_adapter_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def afresh(adapter: Any) -> Any:
    """The module of an adapter, executed once more: nothing that it keeps from call to call is in it.

    None where there is no module to execute. Raises AdapterError where it refuses: what registers itself does so once.
    """
    spec = getattr(adapter, "__spec__", None)
    if spec is None or spec.loader is None:
        return None
    again, kept = importlib.util.module_from_spec(spec), sys.modules.get(spec.name)
    sys.modules[spec.name] = again
    try:
        spec.loader.exec_module(again)
    except (Exception, SystemExit) as e:
        raise AdapterError(f"imported once more, the adapter raised {type(e).__name__}: {e}") from e
    finally:
        if kept is None:
            del sys.modules[spec.name]
        else:
            sys.modules[spec.name] = kept
    return again


def _line_in(path: Path, error: BaseException) -> str:
    at = error.__traceback__
    line = 0
    while at is not None:
        if Path(at.tb_frame.f_code.co_filename) == path:
            line = at.tb_lineno
        at = at.tb_next
    return f":{line}" if line else ""


def check(adapter: Any, file: str, name: str) -> None:
    """Raise AdapterError unless `adapter` has the form of one: known operations, axes, values, conventions, profile."""
    offers = getattr(adapter, "OFFERS", None)
    if not isinstance(offers, dict):
        raise AdapterError(
            f"{file}: an adapter needs OFFERS, a dict of operation -> axes; {name} has {type(offers).__name__}"
        )
    for op, offer in offers.items():
        _check_offer(adapter, file, op, offer)
    skipped = getattr(adapter, "CONVENTIONS", {}).get("skipped_slots", "skip")
    if offers.get("append", {}).get("static") and skipped != "skip":
        raise AdapterError(
            f"{file}: OFFERS['append'] is static, whose surplus rows are at slot -1, but CONVENTIONS['skipped_slots'] "
            f"says {skipped!r}; offer it without 'static', or skip them"
        )
    for convention, value in getattr(adapter, "CONVENTIONS", {}).items():
        _check_convention(file, convention, value)
    _check_arithmetic(file, getattr(adapter, "ARITHMETIC", {}))
    _check_reasons(file, getattr(adapter, "WHY_NOT", {}))
    _check_workspace(adapter, file, offers)
    for op, argument in getattr(adapter, "IN_PLACE", {}).items():
        if op not in OPERATIONS or argument not in OPERATIONS[op].arguments:
            raise AdapterError(f"{file}: IN_PLACE says {op!r} changes {argument!r}; there is no such argument")


def _check_offer(adapter: Any, file: str, op: str, offer: Any) -> None:
    if op not in OPERATIONS:
        raise AdapterError(f"{file}: OFFERS names operation {op!r}{nearest(op, OPERATIONS)}")
    if not callable(getattr(adapter, op, None)):
        raise AdapterError(f"{file}: offers {op!r} but has no function of that name")
    if not isinstance(offer, dict):
        raise AdapterError(
            f"{file}: OFFERS[{op!r}] must be a dict of axis -> set, range or value, not {type(offer).__name__}"
        )
    row = OPERATIONS[op]
    special_axes = (*(("into",) if row.lends else ()), *(("ragged",) if "q_lens" in row.case_axes else ()))
    axes = ("layout", "dtype", "static", "returns", *special_axes, *row.offered_axes)
    for axis, predicate in offer.items():
        if axis not in axes:
            raise AdapterError(f"{file}: OFFERS[{op!r}] names axis {axis!r}{nearest(axis, axes)}")
        if axis not in ("static", "ragged") and flaw(predicate):
            raise AdapterError(f"{file}: OFFERS[{op!r}][{axis!r}]: {flaw(predicate)}")
        if axis == "q_lens" and not holds(predicate, FEATURES[axis].off):
            said = "a sequence with fewer keys than that has as many query tokens as it has keys, down to one"
            raise AdapterError(f"{file}: OFFERS[{op!r}]['q_lens'] leaves out {FEATURES[axis].off}: {said}")
        special = {"layout": [r.name for r in row.layouts], "dtype": list(row.dtypes), "returns": list(row.returns)}
        special["into"] = list(row.lends)
        known = special.get(axis, vocabulary(axis))
        if not known:
            continue
        anything = {"layout": list(LAYOUTS), "dtype": [*DTYPES, *PACKED]}.get(axis, known)
        for value in members(predicate):
            if value not in anything:
                raise AdapterError(f"{file}: OFFERS[{op!r}] names {axis} {value!r}{nearest(str(value), known)}")
            if value not in known:
                raise AdapterError(f"{file}: {op} is not specified for {axis} {value!r}, only for {', '.join(known)}")


def _check_workspace(adapter: Any, file: str, offers: Any) -> None:
    sizes = getattr(adapter, "WORKSPACE", {})
    wanting = {op for op, offer in offers.items() if holds(offer.get("into", ()), WORKSPACE)}
    for op in sorted(wanting ^ set(sizes)):
        lacking = "function" if op in wanting else "offer"
        raise AdapterError(
            f"{file}: OFFERS[{op!r}]['into'] with {WORKSPACE!r} goes with WORKSPACE[{op!r}], a function of the "
            f"operation's arguments that says how many bytes; there is no such {lacking}"
        )
    for op, size in sizes.items():
        if not callable(size):
            raise AdapterError(f"{file}: WORKSPACE[{op!r}] must be a function, not {size!r}")


def _check_convention(file: str, name: str, value: Any) -> None:
    if name not in CONVENTIONS:
        raise AdapterError(f"{file}: CONVENTIONS names {name!r}{nearest(name, CONVENTIONS)}")
    row = CONVENTIONS[name]
    if row.several and not isinstance(value, set | frozenset):
        raise AdapterError(f"{file}: CONVENTIONS[{name!r}] must be a set out of {row.choices}, not {value!r}")
    for one in value if row.several else [value]:
        if one not in row.choices:
            raise AdapterError(f"{file}: CONVENTIONS[{name!r}] says {one!r}; {row.meaning}: one of {row.choices}")


def _check_reasons(file: str, reasons: Any) -> None:
    axes = ["operation", "feature", "narrow", "layout", "dtype", "returns", "into", *POOL]
    known = [*axes, *OPERATIONS, *(word for axis in axes for word in vocabulary(axis))]
    known += [word for row in OPERATIONS.values() for word in (*row.returns, *row.optional, *row.lends)]
    for word, reason in reasons.items():
        if word not in known:
            raise AdapterError(f"{file}: WHY_NOT names {word!r}{nearest(str(word), known)}")
        if not isinstance(reason, str) or not reason:
            raise AdapterError(f"{file}: WHY_NOT[{word!r}] must be a sentence, not {reason!r}")


def _check_arithmetic(file: str, arithmetic: Any) -> None:
    known = {f.name for f in fields(Profile)}
    for name, value in arithmetic.items():
        if name not in known:
            raise AdapterError(f"{file}: ARITHMETIC names {name!r}{nearest(name, sorted(known))}")
        for dtype, one in value.items() if isinstance(value, dict) else [(None, value)]:
            if dtype is not None and dtype not in DTYPES:
                raise AdapterError(f"{file}: ARITHMETIC[{name!r}] names dtype {dtype!r}{nearest(str(dtype), DTYPES)}")
            if name.endswith(("_format", "_accumulator")) and one is not None and one not in FORMATS:
                raise AdapterError(f"{file}: ARITHMETIC[{name!r}] says {one!r}{nearest(str(one), FORMATS)}")
