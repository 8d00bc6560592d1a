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
the expectation itself is reported: a fixed kernel is noticed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvconform.harness.adapters import AdapterError, nearest, unknown_case_axis
from kvconform.specs.case import Case, CaseError
from kvconform.specs.offers import inside

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
    """

    impl: str
    laws: tuple[str, ...]
    reason: str
    witness: Case
    when: Mapping[str, Any] = field(default_factory=dict)
    link: str = ""

    def covers(self, law: str, case: Case) -> bool:
        """Whether a violation of this law by this Case is the known one."""
        return law in self.laws and case.op == self.witness.op and inside(self.when, case)


def load(path: Path, impl: str, laws: Mapping[str, Any]) -> tuple[Expectation, ...]:
    """The entries of one implementation. Raises AdapterError where anything in it makes no sense."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("expect", [])
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise AdapterError(f"{path}: cannot be read as TOML: {e}") from e
    return tuple(_entry(path, i, entry, laws) for i, entry in enumerate(entries, 1) if entry.get("impl") == impl)


def _entry(path: Path, number: int, entry: dict[str, Any], laws: Mapping[str, Any]) -> Expectation:
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
    for axis in entry.get("when", {}):
        if complaint := unknown_case_axis(axis):
            raise AdapterError(f"{where}: `when`: {complaint}")
    try:
        witness = Case.from_json(entry["witness"])
    except (CaseError, TypeError) as e:
        raise AdapterError(f"{where}: the witness cannot be read: {e}") from e
    found = Expectation(
        entry["impl"], tuple(entry["laws"]), entry["reason"], witness, entry.get("when", {}), entry.get("link", "")
    )
    if not inside(found.when, witness):
        raise AdapterError(f"{where}: its witness lies outside its own `when`")
    return found
