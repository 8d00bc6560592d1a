"""The only comparisons. They raise; there is no boolean to forget.

An output is expected either bit for bit (`Exact`) or inside the interval that the error bound gives (`Interval`).
What a check saw travels with the Violation, so that named mistakes can be tried on it later: a mistake explains a
Violation when the same outputs meet what a kernel with that mistake would have produced from the same bytes. Of what
is met the same can be asked (`explaining`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from kvconform.oracles.bound import OutsideDomain
from kvconform.oracles.rounding import admissible
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS

Locate = Callable[[tuple[int, ...]], str]


def by_axes(*axes: str) -> Locate:
    """Names an index by its axes: `seq 0, q_head 1, dim 3`."""
    return lambda index: ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))


@dataclass(frozen=True)
class Exact:
    """An output that must agree bit for bit: NaN payloads, -0.0 and subnormals included.

    locate   says in logical words where an index lies
    free     elements of which nothing is asked; None: all are judged
    numbers  whether these are results of arithmetic, of which the farthest is told, and by how much
    """

    want: Array
    locate: Locate
    free: Array | None = None
    numbers: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return self.want.shape

    def unmet(self, got: Array) -> Array:
        """bool: elements with a differing bit."""
        bad = _differing(got, self.want)
        return bad if self.free is None else bad & ~self.free

    def describe(self, got: Array, bad: Array) -> str:
        """The first differing element, or the farthest, with its bits where the values look alike."""
        index, which, apart = tuple(int(i) for i in np.argwhere(bad)[0]), "first", ""
        if self.numbers:
            with np.errstate(all="ignore"):
                gap = np.abs(got.astype(np.float64) - self.want.astype(np.float64))
            gap = np.where(bad, np.where(np.isnan(gap), np.inf, gap), -1.0)
            index, which = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape)), "farthest"
            apart = f", {gap[index]:.3g} apart" if np.isfinite(gap[index]) else ""
        pair = [str(array[index]) for array in (got, self.want)]
        if pair[0] == pair[1]:
            pair = [f"{text} (0x{_bits(a[index])})" for text, a in zip(pair, (got, self.want), strict=True)]
        return f"differ, {which} at {self.locate(index)}: got {pair[0]}, want {pair[1]}{apart}"


@dataclass(frozen=True)
class Interval:
    """An output that must lie where a correct kernel of the declared profile can land.

    want, error   float64 centre and half-width before the final rounding, shape of the output
    format        format the kernel rounds its result to
    likely        the half-width that only chance exceeds, where the inputs are screened (oracles/screen.py)
    """

    want: Array
    error: Array
    format: str
    locate: Locate
    likely: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return self.want.shape

    def unmet(self, got: Array) -> Array:
        """bool: elements outside; NaN is inside only where NaN is wanted, which no correct reading ever does."""
        value = got.astype(np.float64)
        return np.asarray(
            ~(admissible(value, self.want, self.error, self.format) | (np.isnan(value) & np.isnan(self.want)))
        )

    def describe(self, got: Array, bad: Array) -> str:
        """The worst element: greatest distance in units of its own bound."""
        value = got.astype(np.float64)
        with np.errstate(all="ignore"):
            ratio = np.abs(value - self.want) / (self.error + np.finfo(np.float64).tiny)
        ratio = np.where(bad, np.where(np.isfinite(ratio), ratio, np.inf), -1.0)
        index = tuple(int(i) for i in np.unravel_index(int(ratio.argmax()), ratio.shape))
        return (
            f"outside the bound, worst at {self.locate(index)}: got {value[index]:.9g}, "
            f"want {self.want[index]:.9g} +- {self.error[index]:.3g}"
        )

    def doubt(self, got: Array) -> str:
        """What lies where only chance takes a correct kernel, in words; nothing where none does, or none was screened.

        Of a result that is inside the bound: this is no verdict.
        """
        if self.likely is None:
            return ""
        value = got.astype(np.float64)
        far = ~(admissible(value, self.want, self.likely, self.format) | np.isnan(self.want))
        if not far.any():
            return ""
        ratio = np.where(far, np.abs(value - self.want) / (self.likely + np.finfo(np.float64).tiny), -1.0)
        index = tuple(int(i) for i in np.unravel_index(int(ratio.argmax()), ratio.shape))
        return (
            f"{int(far.sum())} of {far.size} elements are inside the bound and farther out than chance takes a correct "
            f"kernel, worst at {self.locate(index)}: got {value[index]:.9g}, want {self.want[index]:.9g} "
            f"+- {self.error[index]:.3g}, of which chance uses {self.likely[index]:.3g}"
        )


@dataclass(frozen=True)
class Choice:
    """An output of numbers of which each must be one of those that a correct kernel can choose.

    allowed    bool [*shape of the output, how many there are to choose from]
    distance   like allowed: what it chooses the least of;  error: how far a correct kernel's may be from each
    """

    allowed: Array
    distance: Array
    error: Array
    locate: Locate

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return self.allowed.shape[:-1]

    def unmet(self, got: Array) -> Array:
        """bool: elements that are none of the allowed ones."""
        last = self.allowed.shape[-1] - 1
        at = np.minimum(got, last).astype(np.int64)[..., None]
        return np.asarray((got > last) | ~np.take_along_axis(self.allowed, at, -1)[..., 0])

    def describe(self, got: Array, bad: Array) -> str:
        """The first one that is none."""
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        distance, allowed = self.distance[index], np.flatnonzero(self.allowed[index])
        code = int(got[index])
        there = f"of {len(distance)}"
        if code < len(distance):
            there = f"at distance {distance[code]:.9g} +- {self.error[index][code]:.3g}"
        listed = " or ".join(f"{one} at {distance[one]:.9g}" for one in allowed[:3])
        more = f" or {len(allowed) - 3} more" if len(allowed) > 3 else ""
        return f"are not the nearest, first at {self.locate(index)}: got {code} {there}, want {listed}{more}"


Expected = Mapping[str, Exact | Interval | Choice]

Explanations = Mapping[str, Callable[[], bool | None]]
"""Mistake -> whether it accounts for what was seen; None where that cannot be said; evaluated only when asked."""


@dataclass(eq=False)
class Violation(AssertionError):
    """An implementation broke a law.

    message        for people
    explanations   of what was seen
    hint           the single key that accounts for what was seen, where there is one; evaluated only when asked
    """

    message: str
    explanations: Explanations = field(default_factory=dict)
    hint: Callable[[], str | None] = lambda: None

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class Raised(Violation):
    """A call that ended in an exception of the implementation's own."""


_MET: ContextVar[list[Explanations] | None] = ContextVar("met", default=None)


@contextmanager
def explaining() -> Iterator[list[Explanations]]:
    """Gives what would explain outputs that are required inside and met: a mistake may give the same there."""
    met: list[Explanations] = []
    token = _MET.set(met)
    try:
        yield met
    finally:
        _MET.reset(token)


def require(
    got: Mapping[str, Array],
    expected: Expected,
    mistakes: Callable[[], Mapping[str, Callable[[], Expected]]] = dict,
    *,
    when: str = "",
    hint: Callable[[Mapping[str, Array]], str | None] = lambda got: None,
) -> None:
    """Raise Violation unless every output meets what is expected of it.

    got        output name -> array; shapes and dtypes were checked when the call returned
    expected   output name -> Exact or Interval
    mistakes   gives named wrong readings -> what each would have given; asked only when something is unmet, or what is
               met is to be explained
    when       what the outputs belong to, put behind their name
    hint       names the key that accounts for the outputs, where one does
    """
    unmet = {name: bad for name, want in expected.items() if (bad := want.unmet(got[name])).any()}
    met = _MET.get()
    if not unmet and met is None:
        return
    tries = {n: partial(_explains, got, unmet.keys(), oracle) for n, oracle in mistakes().items()}
    for name, bad in unmet.items():
        said = expected[name].describe(got[name], bad)
        text = f"{name}{when and ' ' + when}: {int(bad.sum())} of {bad.size} elements {said}"
        raise Violation(text, tries, partial(hint, got))
    if met is not None:
        met.append(tries)


def require_any(got: Mapping[str, Array], allowed: Sequence[Expected], what: str) -> None:
    """Raise Violation unless the outputs meet one of several expectations; `what` names what each stands for."""
    if all(any(want.unmet(got[name]).any() for name, want in one.items()) for one in allowed):
        name = next(name for name, want in allowed[-1].items() if want.unmet(got[name]).any())
        said = allowed[-1][name].describe(got[name], allowed[-1][name].unmet(got[name]))
        raise Violation(f"{name}: as it would be after none of {len(allowed)} {what}; elements of the last one {said}")


def require_raised(call: Callable[[], object], what: str) -> None:
    """Raise Violation unless a call ends in an exception of the implementation's own; `what` it had to refuse."""
    try:
        call()
    except Raised:
        return
    raise Violation(f"declared to raise at {what}, but the call returned")


def require_same(got: Array, want: Array, what: str, locate: Locate, *, numbers: bool = False) -> None:
    """Raise Violation unless two results of the implementation agree bit for bit; `what` names both sides.

    locate, numbers   as in Exact
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        raise Violation(f"{what}: {got.dtype}{list(got.shape)} against {want.dtype}{list(want.shape)}")
    bad = _differing(got, want)
    if bad.any():
        said = Exact(want, locate, numbers=numbers).describe(got, bad)
        raise Violation(f"{what}: {int(bad.sum())} of {bad.size} elements {said}")


def require_near(one: Array, two: Array, bound: Interval, other: Interval, what: str) -> None:
    """Raise Violation unless two results are at most as far apart as the sum of their own bounds, both rounded.

    bound, other   what each of them is held to; their centres have no say in it, and tell which of the two is wrong
    NaN in both is no difference: whether it may be there says the bound of either.
    """
    gap, reach, far = _apart(one, two, bound, other)
    if far.any():
        with np.errstate(invalid="ignore"):
            ratio = gap / (reach + np.finfo(np.float64).tiny)
        ratio = np.where(far, np.where(np.isnan(ratio), np.inf, ratio), -1.0)
        index = tuple(int(i) for i in np.unravel_index(int(ratio.argmax()), ratio.shape))
        allowed = f", allowed {reach[index]:.3g}" if np.isfinite(reach[index]) else ""
        first, second = (float(x[index]) for x in (one, two))
        raise Violation(
            f"{what}: {int(far.sum())} of {far.size} elements farther apart than both bounds allow, worst at "
            f"{bound.locate(index)}: {first:.9g} and {second:.9g}{allowed}{_blamed((one, two), (bound, other), index)}"
        )


def _blamed(pair: tuple[Array, Array], bounds: tuple[Interval, Interval], index: tuple[int, ...]) -> str:
    """Which of two results that are too far apart is not where it should be, in words; nothing where both are held to
    other numbers, as where one is of V times a factor, or where neither is outside its own bound."""
    wants, errors = ([getattr(one, name)[index] for one in bounds] for name in ("want", "error"))
    with np.errstate(invalid="ignore"):  # of two that are the same infinity
        if abs(wants[0] - wants[1]) > sum(errors):
            return ""
    former, latter = (bool(one.unmet(got)[index]) for got, one in zip(pair, bounds, strict=True))
    who = {(True, False): "the former", (False, True): "the latter", (True, True): "each"}.get((former, latter))
    return f"; {who} is outside its own bound" if who else ""


def is_near(one: Array, two: Array, bound: Interval) -> bool:
    """Whether two results are no farther apart than the first one's bound alone allows: what the other's is, is idle.

    Arguments as in `require_near`.
    """
    return not _apart(one, two, bound, None)[2].any()


def _apart(one: Array, two: Array, bound: Interval, other: Interval | None) -> tuple[Array, Array, Array]:
    """How far two results are apart, how far both may be from the exact one together, and bool: too far."""
    a, b = (_to_the_end(x.astype(np.float64), bound) for x in (one, two))
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
        reach = _reach(a, bound) + (0.0 if other is None else _reach(b, other))
        return gap, reach, ~((gap <= reach) | (np.isnan(a) & np.isnan(b)))


def _to_the_end(value: Array, want: Interval) -> Array:
    """Infinities as the last numbers of their format, beyond which they lie."""
    return np.clip(value, -FORMATS[want.format].largest, FORMATS[want.format].largest)


def _reach(value: Array, want: Interval) -> Array:
    """How far a result may be from the exact one: its bound, and the rounding into its format."""
    target = FORMATS[want.format]
    return np.asarray(want.error + target.unit * (np.abs(value) + want.error) + target.half_subnormal)


def _explains(got: Mapping[str, Array], unmet: Collection[str], oracle: Callable[[], Expected]) -> bool | None:
    """Whether outputs meet what a mistake would have given; None where it reads what has no bound, such as infinities.

    It must say something of every output that was unmet.
    """
    with np.errstate(all="ignore"):
        try:
            expected = oracle()
        except OutsideDomain:
            return None
        except Violation:  # a mistake may be measured by calling again
            return False
        if not set(unmet) <= set(expected):
            return False
        said = [_meets(got[name], want) if name in got else False for name, want in expected.items()]
    return False if False in said else None if None in said else True


def _meets(got: Array, want: Exact | Interval | Choice) -> bool | None:
    """Whether an output is what a mistake would have given; None where it reads NaN, of which a maximum may make
    anything, and NaN went farther than that."""
    if isinstance(want, Choice):
        return not want.unmet(got).any()
    if got.shape != want.want.shape:
        return False
    bad = want.unmet(got)
    if not bad.any():
        return True
    if not isinstance(want, Interval) or not np.isnan(want.want).any():
        return False
    told = bad & ~np.isnan(want.want)
    return None if np.isnan(got.astype(np.float64))[told].all() else False


def same_bits(a: Array, b: Array) -> bool:
    """Whether no bit differs."""
    return a.shape == b.shape and a.dtype == b.dtype and not _differing(a, b).any()


def _differing(a: Array, b: Array) -> Array:
    left, right = (np.ascontiguousarray(x).view(f"u{x.itemsize}").reshape(x.shape) for x in (a, b))
    return np.asarray(left != right)


def _bits(value: object) -> str:
    return np.asarray(value).tobytes()[::-1].hex()


def resolution(values: Sequence[float]) -> float | None:
    """One figure for a cell: the median over some of its rows of the change of a weight that a typical element shows.

    None where nothing was bounded; 0 never occurs, since every rounding hides something.
    """
    finite = [v for v in values if np.isfinite(v)]
    return float(np.median(finite)) if finite else None
