"""Random search and hill climbing for false alarms of emulated kernels, each of which is correct.

Case `search 12` of a kernel derives from (seed, 12, its name) alone, and so does the climb `climb 12`: either can be
judged again by itself, whatever else a run did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from kvconform.numerics.emulators import Emulator, Row, stored
from kvconform.numerics.kinds import codes, draw, kinds_of
from kvconform.numerics.measured import RESULTS, Measured, Tally
from kvconform.numerics.ratios import bounded, inside, ratios, used
from kvconform.numerics.slack import stages_of
from kvconform.oracles.bound import Bounded, OutsideDomain
from kvconform.oracles.evidence import typical_step
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.profile import Profile

STEPS = 120
"""Changes that one climb tries."""

CLIMBED_KEYS = 16
"""Keys of a row that is climbed from, at most: a change of one number has to matter."""


@dataclass(frozen=True)
class Judged:
    """One row, what a kernel made of it, and the verdict."""

    row: Row
    result: tuple[Any, Any]
    want: Bounded
    profile: Profile

    @property
    def ratios(self) -> dict[str, float]:
        """Share of the bound that the worst element of each result uses."""
        return dict(zip(RESULTS, ratios(self.result, self.want, self.profile), strict=True))

    @property
    def admitted(self) -> bool:
        """The verdict."""
        return inside(self.result, self.want, self.profile)

    def stages(self, result: str) -> dict[str, float]:
        """What the bound of the worst element of a result consists of."""
        at = RESULTS.index(result)
        format = (self.profile.out_format, self.profile.lse_format)[at]
        value, error = getattr(self.want, result), getattr(self.want, f"{result}_error")
        worst = int(np.argmax(used(self.result[at], value, error, format)))
        half_ulp = float(FORMATS[format].unit * np.abs(np.ravel(value)[worst]))

        def bound(profile: Profile) -> float:
            return float(np.ravel(getattr(bounded(self.row, profile), f"{result}_error"))[worst])

        return stages_of(self.profile, bound, half_ulp)


def judge(emulator: Emulator, row: Row) -> Judged:
    """Raises OutsideDomain."""
    want = bounded(row, emulator.profile)
    with np.errstate(all="ignore"):
        return Judged(row, emulator(row), want, emulator.profile)


def _rng(emulator: Emulator, seed: int, number: int, way: str) -> np.random.Generator:
    return np.random.default_rng([seed, number, *way.encode(), *emulator.name.encode()])


def searched(emulator: Emulator, seed: int, number: int) -> Row:
    """The row of one case: kinds take turns."""
    return draw(_kind(emulator, number), _rng(emulator, seed, number, "search"), emulator.storage)


def _kind(emulator: Emulator, number: int) -> str:
    kinds = list(kinds_of(emulator.features))
    return kinds[number % len(kinds)]


def search(emulator: Emulator, tally: Tally, elements: int, seed: int) -> None:
    """Judge random rows until so many elements of out have been seen."""
    for number in count():
        if tally.measured.elements >= elements:
            return
        try:
            judged = judge(emulator, searched(emulator, seed, number))
        except OutsideDomain:
            tally.outside()
            continue
        want, out_format = judged.want, emulator.profile.out_format
        steps = typical_step(judged.row.numbers[1][None], want.out[None], want.out_error[None], out_format)
        tally.saw(f"search {number}", want.out.size, judged.ratios, judged.admitted, judged.stages, steps)


# --- hill climbing


def _scaled(rng: np.random.Generator, a: Any, factor: float) -> Any:
    """One element of an array times a factor."""
    changed = a.copy()
    changed.flat[rng.integers(a.size)] *= factor
    return changed


def _one(name: str) -> Callable[[np.random.Generator, Row], Row]:
    """An element grows or shrinks: by an octave, by a little, by an ulp or so."""

    def change(rng: np.random.Generator, row: Row) -> Row:
        factor = 1 + rng.choice([-1.0, 1.0]) * 2.0 ** -int(rng.choice([0, 1, 3, 6, 10, 16, 22]))
        return replace(row, **{name: _scaled(rng, getattr(row, name), factor)})

    return change


def _all(name: str) -> Callable[[np.random.Generator, Row], Row]:
    return lambda rng, row: replace(row, **{name: getattr(row, name) * np.float32(2.0 ** rng.integers(-3, 4))})


def _flipped(rng: np.random.Generator, row: Row) -> Row:
    return replace(row, v=_scaled(rng, row.v, -1.0))


def _copied(rng: np.random.Generator, row: Row) -> Row:
    """One key takes the place of another."""
    to, source = rng.integers(len(row.k), size=2)
    k, v = row.k.copy(), row.v.copy()
    k[to], v[to] = k[source], v[source]
    return replace(row, k=k, v=v)


def _dropped(rng: np.random.Generator, row: Row) -> Row:
    if len(row.k) == 1:
        return row
    return row.at(np.arange(len(row.k)) != rng.integers(len(row.k)))


def _ordered(rng: np.random.Generator, row: Row) -> Row:
    """Keys in the order of their scores, or in another."""
    return row.at(np.argsort(row.numbers[0] @ row.q) if rng.random() < 0.5 else rng.permutation(len(row.k)))


def _sunk(rng: np.random.Generator, row: Row) -> Row:
    """The sink moves, by a little or by much; it stays a bfloat16 number."""
    if row.sink is None:
        return row
    return replace(row, sink=float(stored(row.sink + rng.choice([-1.0, 1.0]) * 2.0 ** rng.integers(-6, 4), "bfloat16")))


MUTATIONS = (
    *(_one(name) for name in ("q", "k", "v", "k", "v")),
    *(_all(name) for name in ("q", "k", "v")),
    _flipped,
    _copied,
    _dropped,
    _ordered,
)
"""What a step of a climb may change, each as likely as any other; the sink as well of kernels that have one."""


@dataclass
class Climb:
    """The best that one climb has found, and how much was judged to find it."""

    best: Judged | None = None
    cases: int = 0
    elements: int = 0


def climb(emulator: Emulator, seed: int, number: int) -> Climb:
    """Change a row step by step and keep what uses more of the bound: even numbers climb in out, odd ones in lse."""
    rng, result = _rng(emulator, seed, number, "climb"), RESULTS[number % 2]
    kind = _kind(emulator, int(rng.integers(len(kinds_of(emulator.features)))))
    start = draw(kind, rng, emulator.storage, largest=CLIMBED_KEYS)
    climbed, row = Climb(), start
    for _ in range(STEPS + 1):
        found = _judged(emulator, row)
        if found is not None:
            climbed.cases, climbed.elements = climbed.cases + 1, climbed.elements + found.want.out.size
            if climbed.best is None or found.ratios[result] >= climbed.best.ratios[result]:
                climbed.best = found
            if not found.admitted:
                climbed.best = found
                return climbed
        row = _changed(emulator, rng, climbed.best.row if climbed.best else start)
    return climbed


def _changed(emulator: Emulator, rng: np.random.Generator, row: Row) -> Row:
    """One mutation, exact in the storage type."""
    with np.errstate(all="ignore"):
        some = (*MUTATIONS, _sunk) if emulator.features else MUTATIONS
        changed = some[int(rng.integers(len(some)))](rng, row)
        if row.of_k is not None:
            k, v = (codes(a, emulator.storage) for a in (changed.k, changed.v))
            return replace(changed, q=stored(changed.q, "bfloat16"), k=k, v=v)
        q, k, v = (stored(a, emulator.storage) for a in (changed.q, changed.k, changed.v))
    return replace(changed, q=q, k=k, v=v)


def _judged(emulator: Emulator, row: Row) -> Judged | None:
    try:
        return judge(emulator, row)
    except OutsideDomain:
        return None


def climbs(emulator: Emulator, tally: Tally, seconds: float, seed: int) -> None:
    """Climb from one start after another until the time is up; what each finds depends on its number alone."""
    until = time.monotonic() + seconds
    for number in count():
        if time.monotonic() >= until:
            return
        found = climb(emulator, seed, number)
        if found.best is not None:
            best, name = found.best, f"climb {number}"
            tally.climbed(name, found.elements, best.ratios, best.admitted, best.stages, found.cases)


# --- both


def measure(emulator: Emulator, elements: int, seed: int, climb_seconds: float = 0.0) -> Measured:
    """The row of one emulated kernel."""
    tally = Tally(emulator.name, emulator.profile)
    search(emulator, tally, elements, seed)
    climbs(emulator, tally, climb_seconds, seed)
    return tally.done()


def again(emulator: Emulator, case: str, seed: int) -> Judged | None:
    """One case again: `search 12` or `climb 12`; None outside the domain. Raises ValueError where it is neither."""
    way, _, number = case.partition(" ")
    found: dict[str, Callable[[int], Judged | None]] = {
        "search": lambda n: _judged(emulator, searched(emulator, seed, n)),
        "climb": lambda n: climb(emulator, seed, n).best,
    }
    if way not in found or not number.isdigit():
        raise ValueError(f"no case {case!r}: cases are called 'search 12' or 'climb 12'")
    return found[way](int(number))


def numbered(emulator: Emulator, cases: int, seed: int) -> Iterator[tuple[str, Judged]]:
    """(kind, case) of the first random rows that lie inside the domain."""
    for number in range(cases):
        judged = _judged(emulator, searched(emulator, seed, number))
        if judged is not None:
            yield _kind(emulator, number), judged
