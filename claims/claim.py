"""What a claim is: a sentence that somebody published, and a judge that computes whether it holds.

A judge takes the seed and, as keywords with the right thing as default, whatever it judges; so a test can hand it
something wrong and see the verdict turn. It computes figures first and derives the verdict from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CONFIRMED = "confirmed"
REFUTED = "refuted"
NOT_TESTABLE = "not testable here"
NOT_MEASURED = "not measured"
VERDICTS = (CONFIRMED, REFUTED, NOT_TESTABLE, NOT_MEASURED)


@dataclass(frozen=True)
class Figure:
    """One number that decides, or a word where the answer is none; `unit` says of what."""

    value: int | float | str
    unit: str = ""

    @property
    def text(self) -> str:
        """The value for people."""
        return f"{self.value:.3g}" if isinstance(self.value, float) else str(self.value)

    def __str__(self) -> str:
        return f"{self.text} {self.unit}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """`{"value", "unit"}`; an infinity or NaN, which JSON has no number for, as text."""
        finite = not isinstance(self.value, float) or math.isfinite(self.value)
        return {"value": self.value if finite else str(self.value), "unit": self.unit}


def share(part: int, whole: int, unit: str) -> Figure:
    """`7 of 12 geometries`."""
    return Figure(f"{part} of {whole}", unit)


@dataclass(frozen=True)
class Judged:
    """What a judge found.

    verdict       one of VERDICTS
    figures       name -> the figures that decide, the deciding ones first
    explanation   one or two sentences
    """

    verdict: str
    figures: Mapping[str, Figure]
    explanation: str


def settled(holds: bool) -> str:
    """The verdict of a claim that could be tested."""
    return CONFIRMED if holds else REFUTED


@dataclass(frozen=True)
class Claim:
    """One row.

    name        what the command line calls it
    system      number of the system that it is about (table.SYSTEMS)
    statement   the claim as its source states it
    judge       seed -> what was found
    picture     file that shows it, from docs/
    by_device   whether the verdict is of the machine at hand: what has no GPU says "not measured"
    """

    name: str
    system: int
    statement: str
    judge: Callable[[int], Judged]
    picture: str = ""
    by_device: bool = False

    def to_json(self, judged: Judged, seed: int) -> dict[str, Any]:
        """The claim and what was found, as a report holds it."""
        return {
            "name": self.name,
            "system": self.system,
            "statement": self.statement,
            "verdict": judged.verdict,
            "figures": {name: figure.to_json() for name, figure in judged.figures.items()},
            "explanation": judged.explanation,
            "command": self.command(seed),
            "seed": seed,
        }

    def command(self, seed: int) -> str:
        """The line that reproduces the verdict."""
        return f"kvconform claims {self.name} --seed {seed}"
