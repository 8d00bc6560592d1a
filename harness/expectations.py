"""Expectations: violations that are known, as data in the adopter's repository.

    [[expect]]
    impl = "my_kernel"
    laws = ["decode_ignores_dead_slots"]
    reason = "masked V is multiplied by zero; NaN survives"
    link = "https://..."
    [expect.when]
    dead = ["nan"]
    [expect.witness]
    schema = 1
    op = "paged_decode"
    ...

`when` is a region over the fields of a Case, in the predicate language of OFFERS. Cases inside it are judged and do
not count against their cell; outside it the law holds in full. The witness must still violate each of the laws, or
the expectation itself is reported: a fixed kernel is noticed. An entry that can match nothing is refused, with the
nearest name that would.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kvconform.harness.adapters import AdapterError, adapters_in, nearest
from kvconform.harness.booking import key_of
from kvconform.specs.case import Case, CaseError
from kvconform.specs.cells import Cell, vocabulary
from kvconform.specs.offers import flaw, inside, members
from kvconform.suites.law import Law

FILE_NAME = "expectations.toml"
"""Read from the folder of an adapter unless a run names another file."""

_KEYS = {"impl", "laws", "reason", "link", "when", "witness"}


@dataclass(frozen=True)
class Expectation:
    """One entry.

    impl, laws   whose violation of what
    reason       why it is known, with an optional link
    when         the region; empty: everywhere
    witness      a Case that violates each of the laws
    where        file and number, for messages
    """

    impl: str
    laws: tuple[str, ...]
    reason: str
    witness: Case
    when: Mapping[str, Any] = field(default_factory=dict)
    link: str = ""
    where: str = ""

    def covers(self, law: str, case: Case) -> bool:
        """Whether a violation of this law by this Case is the known one."""
        return law in self.laws and case.op == self.witness.op and inside(self.when, case)

    @property
    def keys(self) -> list[str]:
        """Keys of the cells that its witness belongs to."""
        case = self.witness
        return [key_of(case.op, case.layout, case.dtype, law) for law in self.laws]

    def covers_all(self, law: Law, cell: Cell) -> bool:
        """Whether every Case of a cell that the law could draw lies in the region."""
        return law.name in self.laws and cell.within(self.when, law.families, law.only or {})

    def require_a_cell(self, offered: Mapping[str, Iterable[str]]) -> None:
        """Raise AdapterError where a law has no cell for the witness.

        offered   law -> `layout/dtype` of its cells that the implementation offers
        """
        cell = f"{self.witness.layout}/{self.witness.dtype}"
        for law in self.laws:
            cells = list(offered.get(law, ()))
            if not cells:
                near = nearest(law, [name for name, some in offered.items() if some])
                raise AdapterError(f"{self.where} matches nothing: {self.impl} does not answer for law {law!r}{near}")
            if cell not in cells:
                raise AdapterError(f"{self.where} matches nothing: {law} has no cell {cell!r}{nearest(cell, cells)}")


def load(path: Path, impl: str, laws: Mapping[str, Law], *, beside: bool = True) -> tuple[Expectation, ...]:
    """The entries of one implementation.

    beside   the file stands beside its adapters, so that an entry for none of them is a slip; a file that a run names
             may speak of adapters that stand anywhere
    Raises AdapterError where anything in the file makes no sense.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("expect", [])
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise AdapterError(f"{path}: cannot be read as TOML: {e}") from e
    known = dict.fromkeys([impl, *adapters_in(path.parent)])
    for number, entry in enumerate(entries, 1):
        name = entry.get("impl", "")
        if beside and name not in known:
            raise AdapterError(
                f"{path}: expectation {number} matches nothing: no adapter beside it is called {name!r}"
                f"{nearest(name, known)}"
            )
    return tuple(_entry(path, i, entry, laws) for i, entry in enumerate(entries, 1) if entry.get("impl") == impl)


def _entry(path: Path, number: int, entry: dict[str, Any], laws: Mapping[str, Law]) -> Expectation:
    where = f"{path}: expectation {number}"
    for key in entry:
        if key not in _KEYS:
            raise AdapterError(f"{where} has {key!r}{nearest(key, sorted(_KEYS))}")
    for key in ("laws", "reason", "witness"):
        if not entry.get(key):
            raise AdapterError(f"{where} has no {key!r}")
    for law in entry["laws"]:
        if law not in laws:
            raise AdapterError(f"{where} expects a violation of law {law!r}{nearest(law, laws)}")
    for axis, predicate in entry.get("when", {}).items():
        if complaint := _flaw_of_axis(axis, predicate):
            raise AdapterError(f"{where}: `when`: {complaint}")
    try:
        witness = Case.from_json(entry["witness"])
    except (CaseError, TypeError) as e:
        raise AdapterError(f"{where}: the witness cannot be read: {e}") from e
    for law in entry["laws"]:
        if laws[law].op != witness.op:
            raise AdapterError(f"{where}: law {law!r} is of {laws[law].op}, and the witness is a case of {witness.op}")
    found = Expectation(
        entry["impl"],
        tuple(entry["laws"]),
        entry["reason"],
        witness,
        entry.get("when", {}),
        entry.get("link", ""),
        where,
    )
    if not inside(found.when, witness):
        raise AdapterError(f"{where}: its witness lies outside its own `when`")
    return found


def _flaw_of_axis(axis: str, predicate: Any) -> str:
    """What is wrong with one line of `when`, or nothing."""
    known = [f.name for f in fields(Case)]
    if axis not in known:
        return f"no case has {axis!r}{nearest(axis, known)}"
    if flaw(predicate):
        return f"{axis}: {flaw(predicate)}"
    words = vocabulary(axis)
    unknown = [value for value in members(predicate) if words and value not in words]
    return f"{axis} is never {unknown[0]!r}{nearest(str(unknown[0]), words)}" if unknown else ""
