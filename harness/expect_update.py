"""`kvconform expect update REPORT`: an expectations file brought up to what a report saw.

A violation becomes an entry as narrow as its counterexample allows, a line whose witness conforms goes, comments and
order of the file stay. What a fault is and why it is tolerated stays for a person to write: `reason` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import AoT, Table

from kvconform.harness.adapters import AdapterError, find, nearest
from kvconform.harness.booking import VIOLATES, Booked
from kvconform.harness.expectations import FILE_NAME
from kvconform.harness.report import read_json
from kvconform.specs.case import Case
from kvconform.specs.cells import POOL, vocabulary
from kvconform.specs.offers import inside

UNWRITTEN = "not explained yet"
"""What a new entry's `reason` begins with."""


@dataclass
class Changes:
    """What an update did to one file: entries, as text for people."""

    added: list[str]
    removed: list[str]

    def __str__(self) -> str:
        lines = [f"  + {text}" for text in self.added] + [f"  - {text}" for text in self.removed]
        return "\n".join(lines) or "  nothing to change"


def read_report(path: Path) -> tuple[dict[str, str], list[Booked]]:
    """(implementation -> how it was named, its violating cells). Raises AdapterError."""
    report = read_json(path)
    cells = [Booked(**cell) for cell in report["cells"]]
    red = [cell for cell in cells if cell.outcome == VIOLATES and cell.counterexample]
    return {row["impl"]: row["ref"] for row in report["impls"]}, red


def file_of(ref: str) -> Path:
    """The expectations file that a run of this implementation reads."""
    return find(ref).path.parent / FILE_NAME


def update(document: tomlkit.TOMLDocument, cells: list[Booked]) -> Changes:
    """Change a file's document in place.

    cells   the violating cells of the implementations whose file it is
    """
    changes = Changes([], [])
    for cell in cells:
        if cell.witness_conforms:
            _remove(document, cell, changes)
    for cell in cells:
        if not cell.witness_conforms:
            _add(document, cell, changes)
    return changes


def region(cell: Booked) -> dict[str, list[Any]]:
    """The narrowest region that a counterexample speaks for: its cell, and each word that it could not do without.

    Shrinking leads every axis to the first of its pool; a word that it left elsewhere is one the violation needs.
    """
    case = Case.from_json(cell.counterexample or {})
    words = {
        axis: [getattr(case, axis)]
        for axis in case.operation.case_axes
        if vocabulary(axis) and getattr(case, axis) != POOL[axis][0]
    }
    return {"layout": [cell.layout], "dtype": [cell.dtype], **words}


def _entries(document: tomlkit.TOMLDocument) -> AoT:
    if "expect" not in document:
        document.append("expect", tomlkit.aot())
    entries = document["expect"]
    assert isinstance(entries, AoT)
    return entries


def _witness(entry: Mapping[str, Any]) -> Case:
    return Case.from_json(dict(entry["witness"]))


def _remove(document: tomlkit.TOMLDocument, cell: Booked, changes: Changes) -> None:
    """Take one law off the entry whose witness conforms to it; an entry without laws goes."""
    entries, case = _entries(document), Case.from_json(cell.counterexample or {})
    for at, entry in enumerate(list(entries)):
        if entry["impl"] == cell.impl and cell.law in entry["laws"] and _witness(entry) == case:
            changes.removed.append(f"{cell.impl} {cell.law}: {entry['reason']}")
            entry["laws"].remove(cell.law)
            if not entry["laws"]:
                del entries[at]
            return


def _add(document: tomlkit.TOMLDocument, cell: Booked, changes: Changes) -> None:
    """Widen an entry of the same law and words to this cell, unless a person has explained it; else write one."""
    when = region(cell)
    for entry in _entries(document):
        known = entry.get("when", {})
        same = entry["impl"] == cell.impl and list(entry["laws"]) == [cell.law]
        if same and str(entry["reason"]).startswith(UNWRITTEN) and _differs_in_one(known, when):
            for axis, values in when.items():
                known[axis].extend(v for v in values if v not in known[axis])
            changes.added.append(f"{cell.impl} {cell.law}: {cell.layout}/{cell.dtype} to a known region")
            return
    _entries(document).append(_table(cell, when))
    changes.added.append(f"{cell.impl} {cell.law}: {', '.join(f'{axis} {v[0]}' for axis, v in when.items())}")


def _differs_in_one(known: Mapping[str, Any], when: Mapping[str, list[Any]]) -> bool:
    """Whether two regions are lists over the same axes that are equal but for the layout, or but for the dtype."""
    if set(known) != set(when) or not all(isinstance(values, list) for values in known.values()):
        return False
    other = [axis for axis in when if list(known[axis]) != when[axis]]
    return other in (["layout"], ["dtype"])


def _table(cell: Booked, when: Mapping[str, Any]) -> Table:
    entry = tomlkit.table()
    looks = f" (looks like {cell.looks_like})" if cell.looks_like else ""
    entry["impl"], entry["laws"] = cell.impl, [cell.law]
    entry["reason"] = f"{UNWRITTEN}{looks}: {cell.message}"
    entry["when"], entry["witness"] = tomlkit.table(), tomlkit.table()
    entry["when"].update(when)
    case = Case.from_json(cell.counterexample or {})
    assert inside(when, case), case
    entry["witness"].update({name: value for name, value in case.to_json().items() if value is not None})
    return entry


def update_files(
    report: Path, target: Path | None, impls: tuple[str, ...], dry_run: bool, say: Callable[[str], None]
) -> None:
    """Bring each implementation's file up to a report.

    target   one file for all;  impls: those that count, empty: all;  say: takes a line for people
    Raises AdapterError.
    """
    refs, red = read_report(report)
    for name in impls:
        if name not in refs:
            raise AdapterError(f"{report} has no implementation {name!r}{nearest(name, refs)}")
    files: dict[Path, list[Booked]] = {}
    for cell in red:
        if not impls or cell.impl in impls:
            files.setdefault(target or file_of(refs[cell.impl]), []).append(cell)
    if not files:
        say(f"{report}: nothing violates, nothing to change")
    for path, cells in files.items():
        document = tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else "")
        changes = update(document, cells)
        say(f"{path}{' (not written)' if dry_run else ''}\n{changes}")
        if not dry_run:
            path.write_text(tomlkit.dumps(document), encoding="utf-8")
