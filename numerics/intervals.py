"""Programs of rounded operations, enclosed: how far rounding can carry a result, and a choice of roundings that does.

Every operation gives `exact (1 + delta) + eta`, with delta and eta anywhere in intervals around 0. A result is then a
function F of all deltas and etas, and F(0) is what the program computes without rounding. By the mean value theorem

    F(delta, eta) - F(0) = sum over operations of  dF/d(result) (exact delta + eta)     at some point of the box,

so derivatives that are enclosed over the whole box enclose the error. The derivatives come backwards along the
program (reverse mode). Choosing each delta and eta at that end of its interval to which its derivative points gives
an error that can be reached; the two meet up to what the derivatives vary over the box.

Intervals are float64, each end rounded outwards. Nothing here knows attention, a profile or the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_FUNCTION_ULPS = 4
"""Ulps that the C library's exp, log and tanh may err, and some to spare."""


@dataclass(frozen=True, slots=True)
class Interval:
    """All numbers from lo to hi."""

    lo: float
    hi: float

    @staticmethod
    def at(x: float) -> Interval:
        """One number."""
        return Interval(x, x)

    @staticmethod
    def around(size: float) -> Interval:
        """From -size to size."""
        return Interval(-size, size)

    @property
    def mid(self) -> float:
        """Its middle."""
        return 0.5 * (self.lo + self.hi)

    @property
    def magnitude(self) -> float:
        """The greatest absolute value."""
        return max(abs(self.lo), abs(self.hi))

    @property
    def least(self) -> float:
        """The least absolute value."""
        return max(0.0, self.lo, -self.hi)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __add__(self, other: Interval) -> Interval:
        return _outwards(self.lo + other.lo, self.hi + other.hi)

    def __sub__(self, other: Interval) -> Interval:
        return _outwards(self.lo - other.hi, self.hi - other.lo)

    def __mul__(self, other: Interval) -> Interval:
        ends = (self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi)
        return _outwards(min(ends), max(ends))

    def inverse(self) -> Interval:
        """1 / x. Raises ZeroDivisionError where 0 is inside."""
        if self.lo <= 0 <= self.hi:
            raise ZeroDivisionError(f"{self} contains 0")
        return _outwards(1 / self.hi, 1 / self.lo)

    def rising(self, function: Callable[[float], float]) -> Interval:
        """A monotone function of the C library."""
        return _outwards(function(self.lo), function(self.hi), _FUNCTION_ULPS)


def _outwards(lo: float, hi: float, ulps: int = 1) -> Interval:
    for _ in range(ulps):
        lo, hi = math.nextafter(lo, -math.inf), math.nextafter(hi, math.inf)
    return Interval(lo, hi)


ZERO, ONE = Interval.at(0.0), Interval.at(1.0)


@dataclass(frozen=True)
class Rounding:
    """What one operation may lose: relative to its result, and absolutely. Both contain 0."""

    delta: Interval = ZERO
    eta: Interval = ZERO


EXACT = Rounding()


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation: its result before rounding and after, on what it depends and how, what rounding may do."""

    exact: Interval
    value: Interval
    parents: tuple[tuple[int, Interval], ...]
    rounding: Rounding


class Ambiguous(ValueError):
    """Which of some numbers is the greatest depends on how they are rounded."""


Choice = Sequence[tuple[float, float]]
"""A delta and an eta for every operation, in order."""


@dataclass(frozen=True)
class Number:
    """A result of a program that is being recorded; arithmetic on it records more."""

    program: Recorder
    index: int

    @property
    def value(self) -> Interval:
        """Everything that it may be."""
        return self.program.steps[self.index].value


class Recorder:
    """Records a program while it runs.

    choice   None: every rounding may be anything it may be. Else what each of them is
    """

    def __init__(self, choice: Choice | None = None) -> None:
        self.choice = choice
        self.steps: list[_Step] = []

    def constant(self, x: float, rounding: Rounding = EXACT) -> Number:
        """A number of the input, perhaps rounded as it is loaded."""
        return self._record(Interval.at(x), (), rounding)

    def rounded(self, x: Number, rounding: Rounding) -> Number:
        """The same number, rounded again."""
        return self._record(x.value, ((x, ONE),), rounding)

    def add(self, a: Number, b: Number, rounding: Rounding = EXACT) -> Number:
        return self._record(a.value + b.value, ((a, ONE), (b, ONE)), rounding)

    def subtract(self, a: Number, b: Number, rounding: Rounding = EXACT) -> Number:
        return self._record(a.value - b.value, ((a, ONE), (b, -ONE)), rounding)

    def multiply(self, a: Number, b: Number, rounding: Rounding = EXACT) -> Number:
        return self._record(a.value * b.value, ((a, b.value), (b, a.value)), rounding)

    def divide(self, a: Number, b: Number, rounding: Rounding = EXACT) -> Number:
        inverse = b.value.inverse()
        quotient = a.value * inverse
        return self._record(quotient, ((a, inverse), (b, -(quotient * inverse))), rounding)

    def exp(self, x: Number, rounding: Rounding = EXACT) -> Number:
        power = x.value.rising(math.exp)
        return self._record(power, ((x, power),), rounding)

    def log(self, x: Number, rounding: Rounding = EXACT) -> Number:
        return self._record(x.value.rising(math.log), ((x, x.value.inverse()),), rounding)

    def tanh(self, x: Number, rounding: Rounding = EXACT) -> Number:
        result = x.value.rising(math.tanh)
        return self._record(result, ((x, ONE - result * result),), rounding)

    def greatest(self, numbers: Sequence[Number]) -> Number:
        """The greatest, exactly. Raises Ambiguous where that depends on roundings."""
        best = max(numbers, key=lambda one: one.value.mid)
        if any(one.index != best.index and one.value.hi >= best.value.lo for one in numbers):
            raise Ambiguous("two numbers may each be the greatest")
        return best

    def _record(self, exact: Interval, parents: tuple[tuple[Number, Interval], ...], rounding: Rounding) -> Number:
        index = len(self.steps)
        chosen = rounding
        if self.choice is not None:
            chosen = Rounding(*map(Interval.at, self.choice[index]))
        value = exact if chosen == EXACT else exact * (ONE + chosen.delta) + chosen.eta
        self.steps.append(_Step(exact, value, tuple((n.index, slope) for n, slope in parents), rounding))
        return Number(self, index)

    def derivatives(self, of: Number) -> list[Interval]:
        """What the result changes by with the result of each operation."""
        found = [ZERO] * len(self.steps)
        found[of.index] = ONE
        for index in range(of.index, -1, -1):
            if found[index] != ZERO:
                for parent, slope in self.steps[index].parents:
                    found[parent] = found[parent] + found[index] * (self._after(index) * slope)
        return found

    def _after(self, index: int) -> Interval:
        """What a result changes by with its exact value: 1 + delta."""
        if self.choice is None:
            return ONE + self.steps[index].rounding.delta
        return ONE + Interval.at(self.choice[index][0])


Run = Callable[[Recorder], Number]
"""Runs a program on a recorder; gives the result that is asked about."""


def enclosed(run: Run) -> float:
    """No rounding carries the result further than this from what the program computes without rounding."""
    recorder = Recorder()
    derivatives = recorder.derivatives(run(recorder))
    error = ZERO
    for slope, step in zip(derivatives, recorder.steps, strict=True):
        if slope != ZERO and step.rounding != EXACT:
            error = error + slope * (step.exact * step.rounding.delta + step.rounding.eta)
    return error.magnitude


def reached(run: Run, rounds: int = 2) -> float:
    """Some choice of roundings carries the result at least this far.

    rounds   how often the choice is made again, from the derivatives at the choice before
    """
    recorder = Recorder()
    result = run(recorder)
    still = [(0.0, 0.0)] * len(recorder.steps)
    start = _value(run, still)
    furthest = 0.0
    for sign in (1.0, -1.0):
        at, of = recorder, result
        for _ in range(rounds):
            choice = _pushed(at, of, sign)
            at = Recorder(choice)
            of = run(at)
            furthest = max(furthest, (of.value - start).least)
    return furthest


def _value(run: Run, choice: Choice) -> Interval:
    return run(Recorder(choice)).value


def _pushed(recorder: Recorder, result: Number, sign: float) -> Choice:
    """Every rounding at the end that its derivative points to."""
    choice = []
    for slope, step in zip(recorder.derivatives(result), recorder.steps, strict=True):
        up, up_eta = sign * slope.mid * step.exact.mid > 0, sign * slope.mid > 0
        delta, eta = step.rounding.delta, step.rounding.eta
        choice.append((delta.hi if up else delta.lo, eta.hi if up_eta else eta.lo))
    return choice
