"""The second derivation: the worst that rounding can do to small cases, program by program, against the bound.

A program is one way in which a kernel may work: an order of keys, tiles, splits, merges, divisions. Each of its
operations errs by what the profile allows it (numerics/intervals.py); so its worst error is enclosed, and reached up
to a second-order rest. The bound has to exceed the one, for every program that the profile describes, and should not
exceed the other by much. No formula of oracles/bound.py is used here; exp(0) is 1, and a result's own last rounding is
left out, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, permutations
from typing import Any

import numpy as np

from kvconform.numerics.intervals import Ambiguous, Interval, Number, Recorder, Rounding, enclosed, reached
from kvconform.oracles.bound import attention_bound
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.profile import Profile


@dataclass(frozen=True)
class Program:
    """One way in which a kernel may work on a row.

    order       keys in the order in which they are visited
    tile        keys between two looks at the maximum
    ends        where each split of the order ends
    merge       divided: weights of parts are divided by their sum; flash: used as exp(lse_k - lse)
    pairs       parts are merged in neighbouring pairs, level by level, and else all at once
    divides     last: the accumulator; first: every P; never: P = exp(s - lse)
    """

    order: tuple[int, ...]
    tile: int
    ends: tuple[int, ...]
    merge: str = "divided"
    pairs: bool = False
    divides: str = "last"

    @property
    def declares(self) -> dict[str, Any]:
        """What a kernel that works so says in its profile."""
        levels = math.ceil(math.log2(len(self.ends))) if self.pairs else 1
        return {
            "tile": self.tile,
            "splits": len(self.ends),
            "merge_levels": levels,
            "renormalises": self.merge == "divided" and self.divides != "never",
            "normalises_first": self.divides == "first",
        }


@dataclass(frozen=True)
class Small:
    """A row that is small enough: q [d], k [n, d], v [n], bias [n] or none; every number exact. A sink is key n."""

    q: tuple[float, ...]
    k: tuple[tuple[float, ...], ...]
    v: tuple[float, ...]
    sm_scale: float = 1.0
    soft_cap: float = 0.0
    bias: tuple[float, ...] = ()
    sink: float | None = None


def of_format(format: str | None, *, truncates: bool = False, flushes: bool = False) -> Rounding:
    """What one operation in a format may lose.

    Half an ulp is at most u of the rounded number, hence u / (1 + u) of the exact one; truncation loses twice that.
    """
    if format is None:
        return Rounding()
    unit = FORMATS[format].unit
    lost = FORMATS[format].least_normal if flushes else FORMATS[format].half_subnormal
    delta = Interval(-2 * unit / (1 + 2 * unit), 0.0) if truncates else Interval.around(unit / (1 + unit))
    return Rounding(delta, Interval.around(lost))


@dataclass(frozen=True)
class _Kernel:
    """A program on a row, with the roundings of a profile, on a recorder."""

    to: Recorder
    program: Program
    row: Small
    profile: Profile

    def _of(self, format: str | None, *, truncates: bool = False) -> Rounding:
        return of_format(format, truncates=truncates, flushes=self.profile.flushes_subnormals)

    @property
    def _soft(self) -> Rounding:
        return self._of(self.profile.softmax_format)

    def result(self) -> tuple[Number, Number]:
        """out and lse."""
        scores = [self._score(key) for key in range(len(self.row.k))]
        if self.row.sink is not None:
            scores.append(self.to.constant(self.row.sink))
        starts = (0, *self.program.ends)
        parts = [self._part([scores[i] for i in keys], keys) for keys in self._splits(starts)]
        return self._merged(parts)

    def _splits(self, starts: Sequence[int]) -> list[tuple[int, ...]]:
        return [self.program.order[a:b] for a, b in pairwise(starts)]

    def _score(self, key: int) -> Number:
        to, profile, soft = self.to, self.profile, self._soft
        rounding = self._of(profile.qk_accumulator, truncates=profile.qk_truncates)
        total = None
        for a, b in zip(self.row.q, self.row.k[key], strict=True):
            x = to.constant(a, self._of(profile.q_format))
            product = to.multiply(x, to.constant(b, self._of(profile.k_format)), rounding)
            product = to.rounded(product, Rounding(Interval.around(profile.qk_error)))
            total = product if total is None else to.add(total, product, rounding)
        assert total is not None
        score = to.multiply(total, to.constant(self.row.sm_scale, soft), soft)
        score = to.rounded(score, self._of(profile.score_format))
        if self.row.soft_cap:
            cap = to.constant(self.row.soft_cap)
            bent = to.tanh(to.divide(score, cap, soft), Rounding(eta=Interval.around(profile.tanh_error)))
            score = to.rounded(to.multiply(cap, bent, soft), self._of(profile.score_format))
        if self.row.bias:
            bias = to.constant(self.row.bias[key], soft)  # itself a product
            score = to.rounded(to.add(score, bias, soft), self._of(profile.score_format))
        return score

    def _power(self, x: Number, at: Number) -> Number:
        """exp(x - at), which is 1 where they are the same number."""
        if x.index == at.index:
            return self.to.constant(1.0)
        error = Rounding(Interval.around(self.profile.exp_error), self._soft.eta)
        return self.to.exp(self.to.subtract(x, at, self._soft), error)

    def _log_of(self, total: Number, top: Number) -> Number:
        """top + log total."""
        greatest = total.value.rising(math.log).magnitude
        error = Rounding(eta=Interval.around(self.profile.log_error * (1 + greatest)))
        return self.to.add(top, self.to.log(total, error), self._soft)

    def _part(self, scores: list[Number], keys: Sequence[int]) -> tuple[Number, Number]:
        """Attention over one split: the online softmax; where P is divided first or never, in two passes."""
        to, profile, program = self.to, self.profile, self.program
        weighing = self._of(profile.pv_accumulator, truncates=profile.pv_truncates)
        held = (*self.row.v, 0.0)  # that of a sink
        values = [to.constant(held[key], self._of(profile.v_format)) for key in keys]
        values = [to.rounded(value, Rounding(Interval.around(profile.pv_error))) for value in values]
        if program.divides != "last":
            top = to.greatest(scores)
            total = self._sum([self._power(s, top) for s in scores], self._soft)
            lse = self._log_of(total, top)
            if program.divides == "first":
                weights = [to.divide(self._power(s, top), total, self._soft) for s in scores]
            else:
                weights = [self._power(s, lse) for s in scores]
            weights = [to.rounded(w, self._of(profile.p_format)) for w in weights]
            return self._sum([to.multiply(*wv, weighing) for wv in zip(weights, values, strict=True)], weighing), lse
        running: tuple[Number, Number, Number] | None = None
        for a in range(0, len(scores), program.tile):
            tile = range(a, min(a + program.tile, len(scores)))
            top = to.greatest([scores[i] for i in tile] + ([running[0]] if running else []))
            exact = [self._power(scores[i], top) for i in tile]
            rounded = [to.rounded(w, self._of(profile.p_format)) for w in exact]
            weights = rounded if profile.sum_rounds_p else exact
            terms = [to.multiply(w, values[i], weighing) for w, i in zip(rounded, tile, strict=True)]
            total, mixed = self._sum(weights, self._soft), self._sum(terms, weighing)
            if running is not None:
                old, old_total, old_mixed = running
                if old.index != top.index:
                    keep = self._power(old, top)
                    old_total = to.multiply(old_total, keep, self._soft)
                    old_mixed = to.multiply(old_mixed, keep, weighing)
                total = to.add(old_total, total, self._soft)
                mixed = to.add(old_mixed, mixed, weighing)
            running = (top, total, mixed)
        assert running is not None
        top, total, mixed = running
        return to.divide(mixed, total, self._soft), self._log_of(total, top)

    def _sum(self, numbers: Sequence[Number], rounding: Rounding) -> Number:
        total = numbers[0]
        for number in numbers[1:]:
            total = self.to.add(total, number, rounding)
        return total

    def _merged(self, parts: list[tuple[Number, Number]]) -> tuple[Number, Number]:
        if len(parts) == 1:
            return parts[0]
        parts = [self._stored(part) for part in parts]
        if not self.program.pairs:
            return self._stored(self._merge(parts))
        while len(parts) > 1:
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [self._stored(self._merge(pair)) if len(pair) == 2 else pair[0] for pair in pairs]
        return parts[0]

    def _stored(self, part: tuple[Number, Number]) -> tuple[Number, Number]:
        out, lse = part
        formats = self.profile.partial_format, self.profile.partial_lse_format
        return self.to.rounded(out, self._of(formats[0])), self.to.rounded(lse, self._of(formats[1]))

    def _merge(self, parts: Sequence[tuple[Number, Number]]) -> tuple[Number, Number]:
        to, soft = self.to, self._soft
        outs, lses = [out for out, _ in parts], [lse for _, lse in parts]
        top = to.greatest(lses)
        weights = [self._power(lse, top) for lse in lses]
        total = self._sum(weights, soft)
        lse = self._log_of(total, top)
        if self.program.merge == "flash":
            weights = [self._power(one, lse) for one in lses]
        mixed = self._sum([to.multiply(*pair, soft) for pair in zip(weights, outs, strict=True)], soft)
        return (mixed if self.program.merge == "flash" else to.divide(mixed, total, soft)), lse


@dataclass(frozen=True)
class Compared:
    """One result of one row under one profile: over all programs that it describes.

    enclosed   no program errs more
    reached    some program errs as much
    bound      what oracles/bound.py says
    """

    enclosed: float
    reached: float
    bound: float

    @property
    def factor(self) -> float:
        """How many times too wide the bound may be."""
        return self.bound / self.reached


def compare(row: Small, profile: Profile, programs: Sequence[Program]) -> dict[str, Compared]:
    """Of out and of lse. `programs` all declare the same. Raises Ambiguous where the greatest score is not settled."""
    (declares,) = {tuple(program.declares.items()) for program in programs}
    profile = replace(profile, **dict(declares))
    q, k, v = np.array(row.q), np.array(row.k), np.array(row.v)[:, None]
    beside: dict[str, Any] = {"soft_cap": row.soft_cap, "sink": row.sink, "bias": np.array(row.bias or 0.0)}
    want = attention_bound(q, k, v, row.sm_scale, profile, **beside)
    found = {}
    for at, (name, bound) in enumerate((("out", float(want.out_error[0])), ("lse", float(want.lse_error)))):
        runs = [_run(program, row, profile, at) for program in programs]
        found[name] = Compared(max(map(enclosed, runs)), max(map(reached, runs)), bound)
    return found


def _run(program: Program, row: Small, profile: Profile, at: int) -> Callable[[Recorder], Number]:
    return lambda to: _Kernel(to, program, row, profile).result()[at]


# --- what is compared


ALONE = Profile(
    qk_accumulator="float64",
    softmax_format="float64",
    pv_accumulator="float64",
    exp_error=0.0,
    log_error=0.0,
    tanh_error=0.0,
    flushes_subnormals=False,
    sum_rounds_p=False,
)
"""Nothing is rounded but in float64."""


@dataclass(frozen=True)
class Stage:
    """One row of the table: a profile, and the programs and inputs that it is compared on.

    rounds    fields of ALONE that are otherwise
    merge, pairs, divides, num_splits   of the programs
    soft_cap, v_size   of the inputs;  bias, sink: whether they have one
    """

    rounds: dict[str, Any]
    merge: str = "divided"
    pairs: bool = False
    divides: str = "last"
    num_splits: int = 1
    soft_cap: float = 0.0
    v_size: float = 1.0
    bias: bool = False
    sink: bool = False
    results: tuple[str, ...] = ("out", "lse")

    @property
    def profile(self) -> Profile:
        """What is declared, but for how its programs work."""
        return replace(ALONE, **self.rounds)


_CALLS = {"exp_error": 2.0**-22, "log_error": 2.0**-22}
_SOFTMAX = {"softmax_format": "float32", **_CALLS}
_FLOAT32 = {"qk_accumulator": "float32", "pv_accumulator": "float32", **_SOFTMAX}

STAGES: dict[str, Stage] = {
    "dot": Stage({"qk_accumulator": "float32"}),
    "truncating dot": Stage({"qk_accumulator": "float32", "qk_truncates": True}),
    "operands in bfloat16": Stage({"q_format": "bfloat16", "k_format": "bfloat16"}),
    "scores stored in bfloat16": Stage({"score_format": "bfloat16"}),
    "cap": Stage({"tanh_error": 2.0**-21}, soft_cap=3.0),
    "exp and log": Stage(_CALLS),
    "softmax in float32": Stage(_SOFTMAX),
    "P in bfloat16": Stage({"p_format": "bfloat16"}, results=("out",)),
    "P in bfloat16, summed": Stage({"p_format": "bfloat16", "sum_rounds_p": True}),
    "V in bfloat16": Stage({"v_format": "bfloat16"}, results=("out",)),
    "sum of values": Stage({"pv_accumulator": "float32"}, results=("out",)),
    "truncating sum": Stage({"pv_accumulator": "float32", "pv_truncates": True}, results=("out",)),
    "flushed values": Stage(
        {"pv_accumulator": "float32", "flushes_subnormals": True}, v_size=2.0**-125, results=("out",)
    ),
    "float32 throughout": Stage(_FLOAT32),
    "the same, P divided first": Stage(_FLOAT32, divides="first"),
    "the same, in two passes": Stage(_FLOAT32, divides="never"),
    "two splits, divided": Stage(_FLOAT32, num_splits=2),
    "two splits, undivided": Stage(_FLOAT32, num_splits=2, merge="flash"),
    "a tree of three splits": Stage(_FLOAT32, num_splits=3, pairs=True),
    "its partial results in bfloat16": Stage(
        {"partial_format": "bfloat16"}, num_splits=3, pairs=True, results=("out",)
    ),
    "its lse in bfloat16": Stage({"partial_lse_format": "bfloat16"}, num_splits=3, pairs=True),
    "float32 throughout, with a bias": Stage(_FLOAT32, bias=True),
    "the same, scores stored in bfloat16": Stage({"score_format": "bfloat16"}, bias=True),
    "float32 throughout, with a sink": Stage(_FLOAT32, sink=True),
    "products of several, each off by 2**-20": Stage({"qk_error": 2.0**-20, "pv_error": 2.0**-20}),
}
"""Each stage alone, then together."""


@dataclass(frozen=True)
class Factors:
    """What a stage came to, over rows: `out` and `lse` -> the comparisons."""

    compared: dict[str, list[Compared]] = field(default_factory=dict)

    def add(self, found: dict[str, Compared], results: Sequence[str]) -> None:
        """Book one row's."""
        for result in results:
            self.compared.setdefault(result, []).append(found[result])


def small_row(rng: np.random.Generator, stage: Stage, n: int) -> Small:
    """Numbers of few bits, 1/16 to 2 in size: exact in any format, scores apart."""

    def some(*shape: int) -> Any:
        return rng.choice([-1.0, 1.0], shape) * rng.integers(1, 33, shape) / 16

    d = int(rng.integers(1, 4))
    q, k, v = some(d), some(n, d), some(n) * stage.v_size
    row = Small(tuple(q), tuple(map(tuple, k)), tuple(v), float(rng.choice([0.5, 1.0])), stage.soft_cap)
    bias, sink = tuple(some(n)) if stage.bias else (), float(some(1)[0]) if stage.sink else None
    return replace(row, bias=bias, sink=sink)


def programs(stage: Stage, n: int, tile: int) -> list[Program]:
    """Every order of the keys, the sink among them, on splits of about the same size."""
    n += stage.sink
    ends = tuple(n * (i + 1) // stage.num_splits for i in range(stage.num_splits))
    one = Program(tuple(range(n)), tile, ends, stage.merge, stage.pairs, stage.divides)
    return [replace(one, order=order) for order in permutations(range(n))]


def sizes(stage: Stage, most: int) -> Iterator[tuple[int, int]]:
    """(keys, tile) that a stage is compared on."""
    for n in range(max(2, stage.num_splits), most + 1):
        yield from ((n, tile) for tile in sorted({1, 2, n}) if tile <= n)


def factors(stage: Stage, seed: int, *, most: int = 4, rows: int = 1) -> Factors:
    """Compare a stage on `rows` rows of each size; rows whose greatest score depends on rounding are drawn again."""
    rng, found = np.random.default_rng([seed, most, rows]), Factors()
    for n, tile in sizes(stage, most):
        done = 0
        while done < rows:
            row = small_row(rng, stage, n)
            try:
                found.add(compare(row, stage.profile, programs(stage, n, tile)), stage.results)
            except Ambiguous:
                continue
            done += 1
    return found
