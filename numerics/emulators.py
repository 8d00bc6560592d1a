"""Correct kernels, emulated one rounding at a time; none of them knows the oracle, the bound or `round_to`.

A `Machine` says how the hardware rounds, a kernel in which order it works. All of them compute attention of one row:
they differ by what real kernels differ by, and each is right. Arithmetic is numpy's own float32 and float16, ml_dtypes'
casts, and bit operations where neither has the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from kvconform.specs.profile import Profile

F32 = npt.NDArray[np.float32]
Result = tuple[F32, Any]
"""out [dv] and lse of one row, before they are rounded into the formats of the result."""

LEAST_NORMAL = np.float32(2.0**-126)
LEAST_NORMAL_HALF = np.float32(2.0**-14)


@dataclass(frozen=True)
class Row:
    """One row of attention: q [d], k [n, d], v [n, dv], bias [n]; every value exact in its storage type.

    bias         -inf: a window hides the key, whatever it holds
    sink         score of one more key, whose value is zero
    of_k, of_v   float32 [n] scales of the tokens of a narrow cache, whose k and v are codes; None: k and v are numbers
    """

    q: npt.NDArray[Any]
    k: npt.NDArray[Any]
    v: npt.NDArray[Any]
    sm_scale: float = 1.0
    bias: npt.NDArray[Any] | float = 0.0
    soft_cap: float = 0.0
    sink: float | None = None
    of_k: npt.NDArray[Any] | None = None
    of_v: npt.NDArray[Any] | None = None

    @property
    def numbers(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """K and V, exactly."""
        k, v = (a.astype(np.float64) for a in (self.k, self.v))
        if self.of_k is None or self.of_v is None:
            return k, v
        return k * self.of_k[:, None].astype(np.float64), v * self.of_v[:, None].astype(np.float64)

    def at(self, keys: Any) -> Row:
        """Some of its keys, in an order."""
        some = {name: getattr(self, name) for name in ("k", "v", "bias", "of_k", "of_v")}
        return replace(self, **{name: a[keys] if np.ndim(a) else a for name, a in some.items()})

    @property
    def sees_a_key(self) -> bool:
        """Whether a window leaves it any."""
        return bool(np.any(np.broadcast_to(self.bias, len(self.k)) != -np.inf))


# --- roundings


def f32(x: npt.ArrayLike) -> F32:
    """Round to float32."""
    return np.asarray(x).astype(np.float32)


def stored(x: npt.ArrayLike, format: str | None) -> F32:
    """Round to a format and come back to float32, which holds every value of it."""
    if format is None:
        return f32(x)
    if format == "tfloat32":  # nearest even on the bits: 13 of float32's 23 fraction bits go
        bits = f32(x).view(np.uint32)
        return ((bits + np.uint32(0xFFF) + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)
    return f32(f32(x).astype(getattr(ml_dtypes, format, format)))


def truncated(x: npt.NDArray[np.float64]) -> F32:
    """Round to float32 toward zero."""
    nearest = f32(x)
    beyond = np.abs(nearest.astype(np.float64)) > np.abs(x)
    return np.where(beyond, np.nextafter(nearest, np.float32(0)), nearest)


# --- exp, with exp(0) == 1


def exp_libm(x: F32) -> F32:
    """Within an ulp."""
    return f32(np.exp(x))


def exp_ex2(x: F32) -> F32:
    """2**(x log2 e): the product rounds, the power errs by 2**-22.2, what is subnormal becomes zero."""
    argument = (f32(x) * f32(np.log2(np.e))).astype(np.float64)
    noise = 2.0**-22.2 * np.sin(1e4 * np.maximum(argument, -1e4))
    power = f32(np.exp2(argument) * (1 + noise))
    return np.where(argument == 0, np.float32(1), np.where(power < LEAST_NORMAL, np.float32(0), power))


def exp_polynomial(x: F32) -> F32:
    """A short polynomial for the fraction: relative error 8.8e-5, of the same sign for like fractions."""
    argument = x.astype(np.float64) * np.log2(np.e)
    fraction = argument - np.floor(argument)
    return np.where(x == 0, np.float32(1), f32(np.exp2(argument) * (1 + 8.8e-5 * np.cos(3 * np.pi * fraction))))


def exp_half(x: F32) -> F32:
    """exp in float16."""
    return f32(np.exp(x.astype(np.float64)).astype(np.float16))


# --- sums of products: x [m] and rows [r, m] -> [r]


def dot_blas(x: F32, rows: F32) -> F32:
    """float32, in the order that the library likes."""
    return f32(rows @ x)


def dot_sequential(x: F32, rows: F32) -> F32:
    """float32, product and sum rounded one by one."""
    products = rows * x
    return np.cumsum(products, axis=1, dtype=np.float32)[:, -1] if x.size else np.zeros(len(rows), np.float32)


def dot_truncating(x: F32, rows: F32, block: int = 4) -> F32:
    """Tensor-core like: short blocks added exactly, the accumulator truncated to float32."""
    total = np.zeros(len(rows), np.float32)
    for a in range(0, x.size, block):
        exact = rows[:, a : a + block].astype(np.float64) @ x[a : a + block].astype(np.float64)
        total = truncated(total.astype(np.float64) + exact)
    return total


def dot_half(x: F32, rows: F32) -> F32:
    """float16 operands, products and accumulator."""
    x16, rows16, total = x.astype(np.float16), rows.astype(np.float16), np.zeros(len(rows), np.float16)
    for i in range(x.size):
        total = total + rows16[:, i] * x16[i]
    return f32(total)


def dot_bfloat16_three(x: F32, rows: F32) -> F32:
    """float32 out of bfloat16 passes: high high + (high low + low high)."""
    x_high, rows_high = stored(x, "bfloat16"), stored(rows, "bfloat16")
    x_low, rows_low = stored(x - x_high, "bfloat16"), stored(rows - rows_high, "bfloat16")
    return f32(rows_high @ x_high) + (f32(rows_low @ x_high) + f32(rows_high @ x_low))


def dot_looked_up(x: F32, rows: F32, width: int = 4, table: str = "float16") -> F32:
    """Product quantisation: each part of a row is a codeword, whose product with that of x lies in a table."""
    starts = range(0, x.size, width)
    entries = [stored(rows[:, a : a + width] @ x[a : a + width], table) for a in starts]
    return f32(np.cumsum(entries, axis=0, dtype=np.float32)[-1])


# --- sums of weights


def add_pairwise(weights: F32) -> Any:
    """float32, in the order that numpy likes."""
    return weights.sum(dtype=np.float32)


def add_sequential(weights: F32) -> Any:
    """float32, one by one: weights below half an ulp of the sum are lost."""
    return np.cumsum(weights, dtype=np.float32)[-1]


# --- the machine


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How the emulated hardware rounds.

    operand        format that q, k and v are rounded into when they are loaded
    score          format that scores are stored in
    p              format of P before P.V, times p_scale
    sums_p         the denominator sums the rounded P
    flushes        float32 subnormals are zero, as operands and as results
    flushes_small  float16 subnormals of P are zero
    tanh           "libm", or "exp": 1 - 2 / (e^2x + 1)
    """

    exp: Callable[[F32], F32] = exp_libm
    qk: Callable[[F32, F32], F32] = dot_blas
    pv: Callable[[F32, F32], F32] = dot_blas
    add: Callable[[F32], Any] = add_pairwise
    operand: str | None = None
    score: str | None = None
    p: str | None = None
    p_scale: float = 1.0
    sums_p: bool = False
    flushes: bool = False
    flushes_small: bool = False
    tanh: str = "libm"

    def keep(self, x: npt.ArrayLike) -> F32:
        """A float32 result as a register keeps it."""
        result = f32(x)
        return np.where(np.abs(result) < LEAST_NORMAL, np.float32(0), result) if self.flushes else result

    def load(self, x: npt.ArrayLike) -> F32:
        return self.keep(stored(x, self.operand))

    def round_p(self, p: F32) -> F32:
        if self.p is None:
            return p
        rounded = stored(p * f32(self.p_scale), self.p)
        if self.flushes_small:
            rounded = np.where(rounded < LEAST_NORMAL_HALF, np.float32(0), rounded)
        return self.keep(rounded / f32(self.p_scale))

    def weigh(self, p: F32, v: F32) -> F32:
        return self.keep(self.pv(p, np.ascontiguousarray(v.T)))


def scores(machine: Machine, row: Row) -> F32:
    """Scale, cap, bias; each stored where the machine stores scores."""
    q, k = machine.load(row.q), machine.load(row.k)
    s = machine.keep(machine.keep(machine.qk(q, k)) * f32(row.sm_scale))
    s = stored(s, machine.score)
    if row.soft_cap:
        cap = f32(row.soft_cap)
        x = s / cap
        with np.errstate(over="ignore"):  # e^2x may be infinite: then tanh is exactly 1
            tanh = np.tanh(x) if machine.tanh == "libm" else f32(1) - f32(2) / (machine.exp(f32(2) * x) + f32(1))
        s = stored(cap * f32(tanh), machine.score)
    if np.any(row.bias):
        s = stored(s + f32(row.bias), machine.score)
    return s


# --- kernels: a machine and a row -> out, lse


def online(
    machine: Machine, row: Row, *, tile: int = 16, order: Sequence[int] | None = None, lag: float = 0.0
) -> Result:
    """FlashAttention: tiles in any order, a running maximum (that may lag), one division at the end.

    A sink is what the maximum and the sum begin with.
    """
    s, v = scores(machine, row), machine.load(row.v)
    visited = np.arange(len(s)) if order is None else np.asarray(order)
    top, total = np.float32(-np.inf), np.float32(0)
    if row.sink is not None:
        top, total = np.float32(row.sink), np.float32(1)
    acc = np.zeros(v.shape[1], np.float32)
    for a in range(0, len(s), tile):
        keys = visited[a : a + tile]
        highest = max(top, s[keys].max())
        if np.isneginf(highest):  # nothing is seen yet
            continue
        if highest > top + lag:
            rescale = machine.exp(f32([top - highest]))[0] if np.isfinite(top) else np.float32(0)
            total, acc, top = total * rescale, machine.keep(acc * rescale), highest
        p = machine.exp(s[keys] - top)
        rounded = machine.round_p(p)
        total = total + machine.add(rounded if machine.sums_p else p)
        acc = machine.keep(acc + machine.weigh(rounded, v[keys]))
    return machine.keep(acc / total), top + f32(np.log(total))


def sink_last(machine: Machine, row: Row, *, tile: int = 16) -> Result:
    """Without the sink, and then scaled by its share of the whole, 1 / (1 + exp(sink - lse))."""
    out, lse = online(machine, replace(row, sink=None), tile=tile)
    if row.sink is None:
        return out, lse
    both = f32([lse, row.sink])
    with np.errstate(over="ignore"):  # e^x may be infinite: then the share is 0
        share = f32(1) / (f32(1) + machine.exp(both[1:] - both[0]))
    return machine.keep(out * share), both.max() + f32(np.log(machine.add(machine.exp(both - both.max()))))


def backward(machine: Machine, row: Row, *, tile: int = 4) -> Result:
    """Tiles from the last key to the first."""
    return online(machine, row, tile=tile, order=range(len(row.k))[::-1])


def rising(machine: Machine, row: Row) -> Result:
    """Key by key in the order of their scores: every one is a new maximum, and rescales what came before."""
    return online(machine, row, tile=1, order=[int(i) for i in np.argsort(scores(machine, row), kind="stable")])


def with_sink(s: F32, v: F32, sink: float | None) -> tuple[F32, F32]:
    """A sink as one more column, whose value is zero."""
    if sink is None:
        return s, v
    return np.append(s, np.float32(sink)), np.append(v, np.zeros((1, v.shape[1]), np.float32), 0)


def two_pass(machine: Machine, row: Row) -> Result:
    """First the lse, then sum exp(s - lse) v, never divided."""
    s, v = with_sink(scores(machine, row), machine.load(row.v), row.sink)
    top = s.max()
    lse = top + f32(np.log(machine.add(machine.exp(s - top))))
    return machine.weigh(machine.round_p(machine.exp(s - lse)), v), lse


def eager(machine: Machine, row: Row) -> Result:
    """softmax(scores) @ v, P normalised before it is rounded."""
    s, v = with_sink(scores(machine, row), machine.load(row.v), row.sink)
    top = s.max()
    p = machine.exp(s - top)
    total = machine.add(p)
    return machine.weigh(machine.round_p(p / total), v), top + f32(np.log(total))


def eager_half(machine: Machine, row: Row) -> Result:
    """The same with the softmax itself in float16: scores, exp, a sequential sum, the quotient."""
    s, v = f32(scores(machine, row).astype(np.float16)), machine.load(row.v)
    p = machine.exp(stored(s - s.max(), "float16"))
    total = np.cumsum(p.astype(np.float16), dtype=np.float16)[-1]
    return machine.weigh(stored(p / f32(total), "float16"), v), stored(
        s.max() + stored(np.log(total), "float16"), "float16"
    )


def split(
    machine: Machine,
    row: Row,
    *,
    splits: int,
    merge: Callable[[Machine, list[Result]], Result],
    partial: str | None = None,
    tile: int = 16,
) -> Result:
    """Each part of the keys on its own, then one of the merges below; parts may be empty. A sink is of the first."""
    parts = []
    for number, keys in enumerate(np.array_split(np.arange(len(row.k)), splits)):
        bias = np.broadcast_to(row.bias, len(row.k))[keys]
        sink = None if number else row.sink
        one = replace(row, k=row.k[keys], v=row.v[keys], bias=bias, sink=sink)
        if one.sees_a_key or sink is not None:
            out, lse = online(machine, one, tile=tile)
            parts.append((stored(out, partial), lse))
    return merge(machine, parts)


# --- merges of (out, lse)


def merge_divided(machine: Machine, parts: list[Result]) -> Result:
    """All parts at once, the weights divided by their own sum."""
    lses = f32([lse for _, lse in parts])
    weights = machine.exp(lses - lses.max())
    total = add_sequential(weights)
    out = machine.keep(sum((w * out for w, (out, _) in zip(weights, parts, strict=True)), f32(0)))
    return machine.keep(out / total), lses.max() + f32(np.log(total))


def merge_flash(machine: Machine, parts: list[Result]) -> Result:
    """All parts at once, weights exp(lse_k - LSE), not divided again."""
    lses = f32([lse for _, lse in parts])
    lse = lses.max() + f32(np.log(add_sequential(machine.exp(lses - lses.max()))))
    weights = machine.exp(lses - lse)
    return machine.keep(sum((w * out for w, (out, _) in zip(weights, parts, strict=True)), f32(0))), lse


def _pair(machine: Machine, one: Result, two: Result, partial: str | None, merge: Callable[..., Result]) -> Result:
    out, lse = merge(machine, [one, two])
    return stored(out, partial), lse


def merge_sequential(
    machine: Machine, parts: list[Result], *, partial: str | None = None, merge: Callable[..., Result] = merge_divided
) -> Result:
    """One part after another into a running result."""
    whole = parts[0]
    for part in parts[1:]:
        whole = _pair(machine, whole, part, partial, merge)
    return whole


def merge_tree(
    machine: Machine, parts: list[Result], *, partial: str | None = None, merge: Callable[..., Result] = merge_divided
) -> Result:
    """Neighbours in pairs, level by level."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [_pair(machine, pair[0], pair[1], partial, merge) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


# --- quantised keys and values


def product_quantised(codebook: F32, codes: npt.NDArray[np.intp], row: Row, table: str | None) -> Result:
    """q . k looked up: table[subspace, code] = q . codeword, stored; a score adds one entry a subspace.

    codebook [subspace, code, dim];  codes [n, subspace];  row.k is what they decode to, and is not read
    """
    subspaces, _, width = codebook.shape
    lookup = stored(np.einsum("scw,sw->sc", codebook, f32(row.q).reshape(subspaces, width)), table)
    s = np.zeros(len(codes), np.float32)
    for subspace in range(subspaces):
        s = s + lookup[subspace, codes[:, subspace]]
    p = np.exp(f32(row.sm_scale) * s - (f32(row.sm_scale) * s).max())
    return f32(f32(row.v).T @ p) / p.sum(dtype=np.float32), f32((f32(row.sm_scale) * s).max() + np.log(p.sum()))


@dataclass(frozen=True)
class Codes:
    """int8 codes with a zero point: the value is scale (code - zero)."""

    code: npt.NDArray[Any]
    zero: float
    scale: float

    @property
    def value(self) -> npt.NDArray[np.float64]:
        return self.scale * (self.code.astype(np.float64) - self.zero)

    @property
    def magnitude(self) -> npt.NDArray[np.float64]:
        """What a kernel sums that folds the zero point after the dot."""
        return self.scale * (np.abs(self.code.astype(np.float64)) + abs(self.zero))


def zero_folded(q: F32, k: Codes, v: Codes, sm_scale: float) -> Result:
    """Dots over codes; the zero points' share subtracted afterwards."""
    dots = dot_sequential(f32(q), f32(k.code)) - f32(k.zero) * add_sequential(f32(q))
    s = dots * f32(k.scale) * f32(sm_scale)
    p = np.exp(s - s.max())
    total = add_sequential(p)
    weighed = dot_sequential(p, np.ascontiguousarray(f32(v.code).T)) - f32(v.zero) * total
    return weighed * f32(v.scale) / total, s.max() + f32(np.log(total))


def multiplied_first(q: F32, k: Any, of_k: F32, v: Any, of_v: F32, sm_scale: float) -> Result:
    """Codes k [n, d] and v [n, dv] times a scale a token, as float32, before anything else."""
    return _softmax_of(q, f32(k) * of_k[:, None], f32(v) * of_v[:, None], sm_scale)


def multiplied_in_half(q: F32, k: Any, of_k: F32, v: Any, of_v: F32, sm_scale: float) -> Result:
    """The same in float16, scales rounded to it."""
    return _softmax_of(q, _half(k) * _half(of_k)[:, None], _half(v) * _half(of_v)[:, None], sm_scale)


def _half(x: Any) -> npt.NDArray[np.float16]:
    return np.asarray(x).astype(np.float16)


def _softmax_of(q: F32, k: npt.NDArray[Any], v: npt.NDArray[Any], sm_scale: float) -> Result:
    s = dot_sequential(f32(q), f32(k)) * f32(sm_scale)
    p = np.exp(s - s.max())
    total = add_sequential(p)
    return dot_sequential(p, np.ascontiguousarray(f32(v).T)) / total, s.max() + f32(np.log(total))


def scales_folded(q: F32, k: Any, of_k: F32, v: Any, of_v: F32, sm_scale: float) -> Result:
    """Dots over codes, times the scale; P times that of V, before it meets codes."""
    s = dot_sequential(f32(q), f32(k)) * of_k * f32(sm_scale)
    p = np.exp(s - s.max())
    total = add_sequential(p)
    return dot_sequential(p * of_v, np.ascontiguousarray(f32(v).T)) / total, s.max() + f32(np.log(total))


def first(machine: Machine, row: Row) -> Result:
    """A narrow cache as numbers, as the machine stores operands, before anything else."""
    return online(machine, replace(row, k=_numbers(machine, row.k, row.of_k), v=_numbers(machine, row.v, row.of_v)))


def _numbers(machine: Machine, codes: npt.NDArray[Any], scale: Any) -> F32:
    return stored(f32(codes) * f32(scale)[:, None], machine.operand)


def folded(machine: Machine, row: Row) -> Result:
    """A narrow cache in codes: scores times their key's scale, P times that of V before it meets codes."""
    assert row.of_k is not None
    assert row.of_v is not None
    s = machine.keep(machine.keep(machine.qk(machine.load(row.q), f32(row.k))) * f32(row.of_k))
    s = machine.keep(s * f32(row.sm_scale))
    if row.soft_cap:
        s = f32(row.soft_cap) * f32(np.tanh(s / f32(row.soft_cap)))
    s = s + f32(row.bias)
    p = machine.exp(s - s.max())
    total = machine.add(p)
    return machine.keep(machine.weigh(p * f32(row.of_v), f32(row.v)) / total), s.max() + f32(np.log(total))


SCALED = ((multiplied_first, "float32"), (multiplied_in_half, "float16"), (scales_folded, "float32"))
"""Kernels of caches with a scale a token, and the format that each multiplies in."""


# --- kernels with their profiles


@dataclass(frozen=True)
class Emulator:
    """A kernel, the profile it would declare, and the storage type of its cache.

    features   whether it has windows and sinks: it is searched on kinds of inputs that have them, too
    """

    name: str
    kernel: Callable[[Machine, Row], Result]
    machine: Machine = Machine()
    declares: dict[str, Any] = field(default_factory=dict)
    storage: str = "float32"
    out: str = "float32"
    features: bool = False

    @property
    def profile(self) -> Profile:
        return Profile(**{"out_format": self.out, **self.declares})

    def __call__(self, row: Row) -> Result:
        if not row.sees_a_key:
            return np.zeros(row.v.shape[1], np.float32), f32(-np.inf if row.sink is None else row.sink)
        out, lse = self.kernel(self.machine, row)
        return stored(out, self.out), lse


def emulators() -> Iterator[Emulator]:
    """Every kernel that the campaign runs."""
    ieee = {"flushes_subnormals": False}
    divides = {"renormalises": True, "sum_rounds_p": False}
    yield Emulator(
        "eager sequential",
        eager,
        Machine(qk=dot_sequential, pv=dot_sequential, add=add_sequential),
        {**ieee, **divides},
    )
    yield Emulator("eager blas", eager, Machine(), ieee)
    yield Emulator("online tile 16", online, Machine(), {**ieee, **divides, "tile": 16})
    yield Emulator("online tile 1", partial(online, tile=1), Machine(qk=dot_sequential), {**ieee, **divides})
    yield Emulator("online backward, tile 4", backward, Machine(), {**ieee, **divides, "tile": 4})
    yield Emulator("online rising, ex2", rising, Machine(exp=exp_ex2), divides)
    yield Emulator("online ex2, flushing", online, Machine(exp=exp_ex2, flushes=True), {**divides, "tile": 16})
    yield Emulator(
        "online lazy rescale", partial(online, tile=4, lag=5.5), Machine(exp=exp_ex2), {"tile": 4, "max_lag": 5.6}
    )
    yield Emulator("two passes", two_pass, Machine(), ieee)
    yield Emulator("two passes, ex2", two_pass, Machine(exp=exp_ex2, qk=dot_sequential), {})
    yield Emulator(
        "polynomial exp", partial(online, tile=4), Machine(exp=exp_polynomial), {"exp_error": 9e-5, "tile": 4}
    )
    yield Emulator("two passes, polynomial", two_pass, Machine(exp=exp_polynomial), {"exp_error": 9e-5})
    for storage in ("int8", "float8_e4m3fn"):
        narrow: Any = {"storage": storage, "out": "bfloat16"}
        yield Emulator(f"{storage} scaled first", first, Machine(), {"tile": 16}, **narrow)
        yield Emulator(f"{storage} scales folded", folded, Machine(exp=exp_ex2), {**divides, "tile": 2**20}, **narrow)
        yield Emulator(
            f"{storage} as bfloat16",
            first,
            Machine(operand="bfloat16"),
            {"q_format": "bfloat16", "k_format": "bfloat16", "v_format": "bfloat16", "tile": 16},
            **narrow,
        )
    bf16: Any = {"storage": "bfloat16", "out": "bfloat16"}
    tensor = {"qk_truncates": True, "pv_truncates": True}
    p16 = {"p_format": "bfloat16", "tile": 16, "renormalises": True}
    yield Emulator("float32 P, bfloat16 out", online, Machine(), {"tile": 16}, **bf16)
    yield Emulator(
        "bfloat16 P, truncating",
        online,
        Machine(exp=exp_ex2, qk=dot_truncating, pv=dot_truncating, p="bfloat16"),
        {**p16, **tensor, "sum_rounds_p": False},
        **bf16,
    )
    yield Emulator(
        "bfloat16 P, float32 out",
        online,
        Machine(exp=exp_ex2, p="bfloat16"),
        {**p16, "sum_rounds_p": False, "normalises_first": False},
        storage="bfloat16",
    )
    yield Emulator("bfloat16 P summed", online, Machine(p="bfloat16", sums_p=True), p16, storage="bfloat16")
    yield Emulator(
        "float16 P", online, Machine(p="float16"), {"p_format": "float16", "tile": 16}, storage="float16", out="float16"
    )
    yield Emulator(
        "eager bfloat16 scores and P",
        eager,
        Machine(score="bfloat16", p="bfloat16"),
        {"score_format": "bfloat16", "p_format": "bfloat16"},
        **bf16,
    )
    yield Emulator(
        "eager float16 P", eager, Machine(p="float16"), {"p_format": "float16"}, storage="float16", out="float16"
    )
    yield Emulator(
        "float8 P",
        online,
        Machine(p="float8_e4m3fn", p_scale=256.0),
        {"p_format": "float8_e4m3fn", "p_scale": 256.0, "tile": 16},
        storage="bfloat16",
    )
    yield Emulator(
        "tfloat32 operands",
        online,
        Machine(operand="tfloat32"),
        {"q_format": "tfloat32", "k_format": "tfloat32", "v_format": "tfloat32", "tile": 16},
    )
    yield Emulator(
        "bfloat16 operands",
        online,
        Machine(operand="bfloat16"),
        {"q_format": "bfloat16", "k_format": "bfloat16", "v_format": "bfloat16", "tile": 16},
    )
    yield Emulator(
        "bfloat16 x 3",
        online,
        Machine(qk=dot_bfloat16_three, pv=dot_bfloat16_three),
        {"qk_error": 3 * 2.0**-16, "pv_error": 3 * 2.0**-16, "tile": 16},
    )
    yield Emulator(
        "products from a float16 table", online, Machine(qk=dot_looked_up), {"table_format": "float16", "tile": 16}
    )
    yield Emulator(
        "float16 accumulators",
        online,
        Machine(qk=dot_half, pv=dot_half),
        {"qk_accumulator": "float16", "pv_accumulator": "float16", "p_format": "float16", "tile": 16},
        storage="float16",
    )
    yield Emulator(
        "float16 softmax",
        eager_half,
        Machine(exp=exp_half, score="float16"),
        {
            "score_format": "float16",
            "softmax_format": "float16",
            "p_format": "float16",
            "exp_error": 2.0**-11,
            "log_error": 2.0**-11,
        },
        storage="float16",
    )
    yield Emulator("tanh through exp", online, Machine(tanh="exp"), {"tile": 16})
    for name, merge, declares in (
        ("divided", merge_divided, {"merge_levels": 1, **divides}),
        ("flash", merge_flash, {"merge_levels": 1}),
        ("sequential", merge_sequential, divides),
        ("sequential flash", partial(merge_sequential, merge=merge_flash), {}),
        ("tree", merge_tree, {"merge_levels": 3, **divides}),
        ("tree bfloat16", partial(merge_tree, partial="bfloat16"), {"merge_levels": 3, "partial_format": "bfloat16"}),
    ):
        stores: Any = declares.get("partial_format")
        yield Emulator(
            f"5 splits, {name}",
            partial(split, splits=5, merge=merge, partial=stores),
            Machine(exp=exp_ex2),
            {"splits": 5, "tile": 16, **declares},
        )
    yield Emulator("sink first", online, Machine(), {**ieee, **divides, "tile": 16}, features=True)
    yield Emulator("sink first, ex2, tile 1", partial(online, tile=1), Machine(exp=exp_ex2), divides, features=True)
    yield Emulator(
        "sink last", sink_last, Machine(exp=exp_ex2), {"tile": 16, "splits": 2, "merge_levels": 1}, features=True
    )
    yield Emulator("sink as a column", eager, Machine(), ieee, features=True)
    yield Emulator("sink in two passes", two_pass, Machine(exp=exp_ex2), {}, features=True)
    yield Emulator(
        "sink first, bfloat16 P, truncating",
        online,
        Machine(exp=exp_ex2, qk=dot_truncating, pv=dot_truncating, p="bfloat16"),
        {**p16, **tensor, "sum_rounds_p": False},
        **bf16,
        features=True,
    )
    yield Emulator(
        "sink as a column, bfloat16 scores and P",
        eager,
        Machine(score="bfloat16", p="bfloat16"),
        {"score_format": "bfloat16", "p_format": "bfloat16"},
        **bf16,
        features=True,
    )
    yield Emulator(
        "5 splits, sink in the first",
        partial(split, splits=5, merge=merge_divided),
        Machine(exp=exp_ex2),
        {"splits": 5, "tile": 16, "merge_levels": 1, **divides},
        features=True,
    )
