"""Where an implementation finds or puts every element, seen from outside: calls on contents that are addresses.

gather        every unit of the cache holds its own address
append        every unit of the tokens does; the cache is 0 before
paged_decode  elements are small odd numbers. q = 0 makes the result the mean of V: n times it is a sum, and two lengths
              in turn differ by one key. With q along one dim, exp(lse) is a sum over keys of exp(K): the same again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvconform.oracles.diagnosis.codes import NONE, Code, Units, whole
from kvconform.oracles.diagnosis.probe_cases import dims, positions
from kvconform.specs.case import Case
from kvconform.specs.cells import Cell
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS, host, width
from kvconform.specs.layouts import Part
from kvconform.specs.lse import NATS
from kvconform.specs.paged import PagedInputs

Call = Callable[..., Mapping[str, Any]]
"""(case, operation, **arguments) -> results by name: `Subject.call`."""

MOST_DIGITS = 16
"""Digits of a number that is added up, where the dtype can hold so many sums apart."""


@dataclass(frozen=True)
class Seen:
    """One part of the tokens.

    at       axis -> coordinates, which broadcast to the shape of `unit`: page and slot as the tables say, seq, column
    unit     the first unit of each element; NONE where nothing decodes, or of append where it was not written
    again    of append: elements that were written to a second place too
    """

    part: Part
    at: Mapping[str, Array]
    unit: Array
    again: Array | None = None


@dataclass(frozen=True)
class Observed:
    """What was seen in one Case.

    parts    name -> Seen, of those that could be looked for
    hidden   name -> why it could not be
    """

    inputs: PagedInputs
    units: Units
    parts: Mapping[str, Seen]
    hidden: Mapping[str, str] = field(default_factory=dict)

    @property
    def op(self) -> str:
        """The operation."""
        return self.inputs.case.op


def observe(call: Call, cell: Cell, case: Case) -> Observed:
    """Look at one Case. Whatever a call raises is raised."""
    if case.op == "append":
        return _appended(call, case)
    return _gathered(call, case) if case.op == "gather" else _Decoded(call, cell, case).observed()


def _tokens(x: PagedInputs, part: Part, seq: Array, position: Array, inner: int) -> dict[str, Array]:
    """Coordinates of tokens, for elements that have `inner` axes more."""
    size = x.case.page_size
    column = position // size
    page = x.tables[part.side][seq, column].astype(np.int64)
    found = {"seq": seq, "column": column, "page": page, "slot": position % size}
    return {name: values.reshape(-1, *(1,) * inner) for name, values in found.items()}


def _coordinates(x: PagedInputs, part: Part) -> dict[str, Array]:
    """Coordinates of every element of the live tokens."""
    grid = x.row.token_grid(part, x.sizes, x.case.dtype)
    named = zip(x.row.token_axes(part), grid, strict=True)
    return _tokens(x, part, *x.owners, len(grid)) | {axis: index[None] for axis, index in named}


# --- gather


def _gathered(call: Call, case: Case) -> Observed:
    x = PagedInputs(case)
    units = Units.of(x.row, x.sizes, case.dtype)
    code = Code(units.base, units.total)
    runs: dict[str, list[Array]] = {part.name: [] for part in x.row.parts}
    for digits in code.digits(np.arange(units.total)):
        arguments = {"cache": units.cache(digits), **x.told()}
        got = call(case, "gather", **arguments, layout=case.layout)
        for part in x.row.parts:
            runs[part.name].append(units.read(part, got[part.name]))
    seen = {}
    for part in x.row.parts:
        seen[part.name] = Seen(part, _coordinates(x, part), whole(code.numbers(np.stack(runs[part.name]))))
    return Observed(x, units, seen)


# --- append


def _appended(call: Call, case: Case) -> Observed:
    x = PagedInputs(case)
    units = Units.of(x.row, x.sizes, case.dtype)
    ids, total = _numbered(x, units)
    code = Code(units.base, total)
    empty = units.cache(np.zeros(units.total, np.int64))
    runs = []
    digits = {part.name: code.digits(ids[part.name]) for part in x.row.parts}
    for run in range(code.num_runs):
        tokens = {part.name: units.values(part, digits[part.name][run]) for part in x.row.parts}
        k, v = (x.row.argument(side, tokens) for side in (0, 1))
        cache = {name: np.zeros_like(array) for name, array in empty.items()}
        got = call(case, "append", cache=cache, k=k, v=v, slot_mapping=x.slot_mapping, layout=case.layout)
        runs.append(units.written(got["cache"]))
    held = code.numbers(np.stack(runs))
    return Observed(x, units, {part.name: _found(x, units, part, ids[part.name], held, total) for part in x.row.parts})


def _numbered(x: PagedInputs, units: Units) -> tuple[dict[str, Array], int]:
    """Part -> [num_rows, *token axes, units] numbers of the tokens' units, and how many; shared places share theirs."""
    ids, start = {}, 0
    _, position = x.owners
    for part in x.row.parts:
        each = (*x.token_shape(part), units.each(part))
        row = np.arange(x.num_rows)
        row[: x.num_tokens] -= position % x.row.step(part, "slot", x.sizes, x.case.dtype)
        ids[part.name] = start + (row[:, None] * math.prod(each) + np.arange(math.prod(each))).reshape(-1, *each)
        start += x.num_rows * math.prod(each)
    return ids, start


def _found(x: PagedInputs, units: Units, part: Part, ids: Array, held: Array, total: int) -> Seen:
    at = _coordinates(x, part)
    ids = ids[: x.num_tokens]
    claimed = units.places(x.row, part, at)[..., None] + np.arange(units.each(part))
    claimed = np.broadcast_to(claimed, ids.shape)
    home = np.full(total, NONE)
    where = np.flatnonzero(held != NONE)
    home[held[where]] = where
    right = held[claimed] == ids
    home[ids[right]] = claimed[right]  # of several places the one that it belongs to
    again = np.bincount(held[where], minlength=total)[ids].max(-1) > 1
    return Seen(part, at, whole(home[ids]), again)


# --- paged_decode


class _Decoded:
    """One Case of paged_decode: V from the results of q = 0, K from lse."""

    def __init__(self, call: Call, cell: Cell, case: Case) -> None:
        self.call, self.case, self.x = call, case, PagedInputs(case)
        self.positions, self.dims = positions(case, cell), self._dims()
        self.lengths = sorted({n for p in self.positions for n in (p, p + 1) if n})
        self.units = Units(self.x.row, self.x.sizes, case.dtype, width(case.dtype))
        self.base = self._base()
        self.code = Code(self.base, self.units.total)

    def _dims(self) -> Array:
        """[calls, num_q_heads] dims of K: q heads of one group look at one each."""
        known = dims(self.case)
        some = [np.roll(known, -first)[: self.case.group] for first in range(0, len(known), self.case.group)]
        return np.stack([np.resize(one, self.case.num_q_heads) for one in some])

    def _base(self) -> int:
        """As many digits as two sums of the longest sequence, each rounded twice, keep apart: they lie 2 apart."""
        apart = 1 / (4 * max(self.lengths, default=1) * FORMATS[self.case.dtype].unit)
        return max(2, min(MOST_DIGITS, 1 + int(apart)))

    def observed(self) -> Observed:
        """Look at K and V."""
        if not self.positions:
            reason = "the offer has no two lengths in turn: no key can be told from the others"
            return Observed(self.x, self.units, {}, dict.fromkeys(("k", "v"), reason))
        k, v = self.x.row.parts
        zero = np.zeros(self.x.q.shape, host(self.case.dtype))
        caches = [self._cache(digits) for digits in self.code.digits(np.arange(self.units.total))]
        results = [self._results(zero, cache) for cache in caches]
        wrong = self._miscounted(results[0][1])
        if wrong:
            return Observed(self.x, self.units, {}, dict.fromkeys(("k", "v"), wrong))
        parts = {"v": self._values(v, np.stack([out for out, _ in results]))}
        if results[0][1] is None:
            return Observed(self.x, self.units, parts, {"k": "no lse is returned, from which it could be"})
        lse = [[self._results(self._along(some), cache)[1] for cache in caches] for some in self.dims]
        parts["k"] = self._keys(k, np.moveaxis(np.array(lse, np.float64), 0, -1))
        return Observed(self.x, self.units, parts)

    def _miscounted(self, lse: Array | None) -> str:
        """In words how many keys are attended, where it is another number: lse of q = 0 is its logarithm."""
        if lse is None:
            return ""
        want = np.array(self.lengths)[:, None, None]
        with np.errstate(all="ignore"):
            counts = [np.rint(np.exp(lse * unit)) for unit in NATS.values()]
        if any((count == want).all() for count in counts):
            return ""
        count = next((c for c in counts if np.isfinite(c).all() and (np.rint(c) >= 0).all()), counts[0])
        bad = tuple(np.argwhere(count != want)[0])
        return f"with q = 0 it attends {count[bad]:g} keys where kv_lens says {self.lengths[bad[0]]}, by its lse"

    def _cache(self, digits: Array) -> dict[str, Array]:
        row, sizes, dtype = self.x.row, self.x.sizes, self.case.dtype
        values = (2 * digits - (self.base - 1)).astype(host(dtype))
        shapes = {name: row.shape(name, sizes, dtype) for name in row.buffers}
        return {n: values[s : s + math.prod(shapes[n])].reshape(shapes[n]) for n, s in self.units.starts.items()}

    def _along(self, some: Array) -> Array:
        """q with one dim a q head, such that scores lie within -1 and 1."""
        q = np.zeros(self.x.q.shape, host(self.case.dtype))
        q[:, np.arange(len(some)), some] = self._step() / self.x.sm_scale
        return q

    def _step(self) -> float:
        """The score of a K of 1: the greatest that takes a power of two in q."""
        return float(2.0 ** math.floor(-math.log2(self.base * self.x.sm_scale)) * self.x.sm_scale)

    def _results(self, q: Array, cache: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """out [lengths, num_seqs, num_q_heads, head_dim] and lse, every sequence as long as all others."""
        outs, lses = [], []
        for length in self.lengths:
            got = self.call(
                self.case,
                "paged_decode",
                q=q,
                cache=dict(cache),
                **self.x.told(kv_lens=np.full_like(self.x.kv_lens, length)),
                layout=self.case.layout,
                sm_scale=self.x.sm_scale,
                num_splits=self.case.num_splits,
            )
            outs.append(np.asarray(got["out"], np.float64))
            lses.append(got.get("lse"))
        return np.stack(outs), None if lses[0] is None else np.stack([np.asarray(lse, np.float64) for lse in lses])

    def _values(self, part: Part, out: Array) -> Seen:
        """V: out [runs, lengths, num_seqs, num_q_heads, dims]."""
        lengths = np.array(self.lengths).reshape(-1, *(1,) * (out.ndim - 2))
        with np.errstate(all="ignore"):
            return self._seen(part, self._digits(self._steps(out * lengths)), np.arange(self.case.head_dim)[None, None])

    def _keys(self, part: Part, lse: Array) -> Seen:
        """K: lse [runs, lengths, num_seqs, num_q_heads, dims]; its base and the factor of scores are not believed."""
        tries = []
        with np.errstate(all="ignore"):
            for unit in NATS.values():
                scores = np.log(self._steps(np.exp(lse * unit)))
                first = np.abs(scores[:, 0])
                for step in (self._step(), np.max(first, initial=0.0, where=np.isfinite(first)) / (self.base - 1)):
                    tries.append(self._seen(part, self._digits(scores / step), self.dims.T[None]))
        return max(tries, key=lambda seen: int((seen.unit != NONE).sum()))

    def _steps(self, sums: Array) -> Array:
        """What the key at each position adds to the sum before it."""
        at = {length: i for i, length in enumerate(self.lengths)}
        return np.stack([sums[:, at[p + 1]] - (sums[:, at[p]] if p else 0.0) for p in self.positions], axis=1)

    def _digits(self, values: Array) -> Array:
        digits = np.rint((values + self.base - 1) / 2)
        return np.where(np.isfinite(digits), digits, NONE).clip(NONE, self.base).astype(np.int64)

    def _seen(self, part: Part, digits: Array, of_dims: Array) -> Seen:
        """From digits [runs, positions, num_seqs, num_q_heads, dims]."""
        case, num_seqs = self.case, len(self.case.kv_lens)
        unit = self.code.numbers(digits).reshape(-1, case.num_q_heads, of_dims.shape[-1])
        seq = np.tile(np.arange(num_seqs), len(self.positions))
        at = _tokens(self.x, part, seq, np.repeat(self.positions, num_seqs), 2)
        q_head = np.arange(case.num_q_heads)[None, :, None]
        return Seen(part, {**at, "q_head": q_head, "head": q_head // case.group, "dim": of_dims}, unit)
