"""What a search has seen of one implementation: one row of the table, whoever was searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kvconform.specs.profile import Profile

RESULTS = ("out", "lse")

Stages = Callable[[str], Mapping[str, float]]


def declared(profile: Profile) -> str:
    """What an arithmetic says that an IEEE-like float32 kernel does not."""
    plain = asdict(Profile())
    said = {name: value for name, value in asdict(profile).items() if value != plain[name]}
    return ", ".join(f"{name} {_short(value)}" for name, value in said.items()) or "float32 throughout"


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


@dataclass
class Worst:
    """The case in which one result used most of its bound.

    ratio    of bound + half an ulp
    case     what reproduces it
    stages   share of the bound that each stage of the arithmetic has there
    """

    ratio: float = 0.0
    case: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Measured:
    """One row.

    name, arithmetic   which implementation, and what it declares
    elements, cases    outputs judged, and the calls they came from; climbing counts too
    outside            cases that were not judged, since a number of theirs may overflow
    worst              of out and lse
    typical            the median over cases of what a case's worst element uses
    alarms             cases in which a correct kernel was outside its bound
    resolution         the change of a key's weight, as a share of all weight, that a typical element shows: the median
                       over cases, keys and dims of (bound + half an ulp) / |v - out|. Not the least such change: an
                       output that happens to lie near 0 is rounded finely, and would speak for all others
    note               why nothing was measured, where nothing was
    """

    name: str
    arithmetic: str
    elements: int = 0
    cases: int = 0
    outside: int = 0
    worst: dict[str, Worst] = field(default_factory=dict)
    typical: dict[str, float] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    resolution: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measured:
        """Read what `to_json` wrote."""
        worst = {name: Worst(**one) for name, one in data["worst"].items()}
        return Measured(**{**data, "worst": worst})


class Tally:
    """Fills in one row, case by case."""

    def __init__(self, name: str, profile: Profile) -> None:
        self.measured = Measured(name, declared(profile))
        self._ratios: dict[str, list[float]] = {result: [] for result in RESULTS}
        self._steps: list[float] = []

    def outside(self) -> None:
        """A case that cannot be judged."""
        self.measured.outside += 1

    def saw(
        self, case: str, elements: int, ratios: Mapping[str, float], admitted: bool, stages: Stages, steps: list[float]
    ) -> None:
        """Book a case that was drawn at random.

        ratios   of the results that there are
        stages   as in `climbed`
        steps    the changes of weight that its rows resolve
        """
        for result, ratio in ratios.items():
            self._ratios[result].append(ratio)
        self._steps += [step for step in steps if np.isfinite(step)]
        self.climbed(case, elements, ratios, admitted, stages)

    def climbed(
        self, case: str, elements: int, ratios: Mapping[str, float], admitted: bool, stages: Stages, cases: int = 1
    ) -> None:
        """Book a case that was sought out: it counts as worst and as an alarm, and not as typical.

        elements, cases   all that were judged to find it
        stages   of a result -> the shares of the stages in the bound of its worst element (numerics/slack.py)
        """
        row = self.measured
        row.cases += cases
        row.elements += elements
        if not admitted:
            row.alarms.append(case)
        for result, ratio in ratios.items():
            if ratio > row.worst.setdefault(result, Worst()).ratio:
                row.worst[result] = Worst(ratio, case, stages(result))

    def done(self) -> Measured:
        """The row."""
        row = self.measured
        row.typical = {result: float(np.median(seen)) for result, seen in self._ratios.items() if seen}
        row.resolution = float(np.median(self._steps)) if self._steps else None
        return row
