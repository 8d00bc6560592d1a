"""Conventions: what implementations legitimately decide for themselves, declared so that nobody argues about it later.

An adapter's `CONVENTIONS` names its choices; strategies draw nothing outside them, oracles follow them, the report
prints them. A convention that takes several choices lists everything the implementation copes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One row.

    meaning   what is being decided
    choices   every legal choice
    default   what is assumed of an adapter that is silent
    several   whether an adapter declares a set of choices (what it copes with) or exactly one
    """

    name: str
    meaning: str
    choices: tuple[Any, ...]
    default: Any
    several: bool = False


CONVENTIONS: dict[str, Convention] = {
    row.name: row
    for row in (
        Convention(
            name="lse_base",
            meaning="base of the logarithm in lse",
            choices=("e", "2"),
            default="e",
        ),
        Convention(
            name="dead",
            meaning="contents it copes with in slots no sequence reads, and in outs of empty parts",
            choices=("zero", "finite", "nan"),
            default={"zero", "finite"},
            several=True,
        ),
        Convention(
            name="table_padding",
            meaning="what a block table may hold beyond a sequence's pages: any valid page, or -1",
            choices=("valid", "minus_one"),
            default={"valid"},
            several=True,
        ),
        Convention(
            name="empty_rows",
            meaning="a sequence without keys: out 0 and lse -inf, or undefined (then never drawn)",
            choices=("zero", "undefined"),
            default="zero",
        ),
        Convention(
            name="deterministic",
            meaning="the same call gives the same bits",
            choices=(True, False),
            default=True,
        ),
    )
}


def declared(conventions: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's choices, completed with the defaults."""
    return {name: conventions.get(name, row.default) for name, row in CONVENTIONS.items()}
