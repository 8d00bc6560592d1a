"""What a row of `specs/layouts.py` is: where each part of a token lives in the buffers of a cache.

A row says it in one line a field (`specs/pattern.py`). Shape, index formula, strategies, oracles, diagnosis, pictures
and the documentation are derived from the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, wraps
from itertools import accumulate, groupby, product
from typing import Any, TypeVar

import numpy as np

from kvconform.specs import data, pattern
from kvconform.specs.dtypes import DTYPES, DType, host, width
from kvconform.specs.pattern import LineError, Measured

K, V = 0, 1
SIDES = (K, V)
SIDE_NAMES = ("k", "v")

SCALE, ZERO = "scale", "zero"
"""What a part's codes become numbers by: code * scale + zero."""

POSITIONS = ("page", "slot", "token")
"""Axes that say where a token is; the others are inside of it."""

_TRIED = {"slot": (3, 4, 32, 64), "head": (1, 2, 3), "dim": (24, 32, 64, 128, 256), "subspace": (2, 3)}
_TRIED |= {"dim_v": (24, 32, 64, 128)}
"""Sizes that are told apart, or not, by the shapes they lead to."""

Sizes = Mapping[str, int]
Array = np.ndarray[Any, Any]

_Of = TypeVar("_Of")
_T = TypeVar("_T")

_REMEMBERED = 1 << 14
"""Answers that a row keeps: a run asks it of the same few hundred sizes over and over."""


def _remembered(
    method: Callable[[Layout, _Of, Sizes, str], _T],
) -> Callable[[Layout, _Of, Sizes, str], _T]:
    """What a method says of (something, sizes, dtype) is worked out once; an error every time."""

    @wraps(method)
    def asked(row: Layout, of: _Of, sizes: Sizes, dtype: str) -> _T:
        key = (method, of, *sizes.items(), dtype)
        if key not in row._memo:
            if len(row._memo) >= _REMEMBERED:
                row._memo.clear()
            row._memo[key] = method(row, of, sizes, dtype)
        found: _T = row._memo[key]
        return found

    return asked


@dataclass(frozen=True)
class Bytes:
    """A size that is a number of bytes: as many elements as fit, at least one."""

    count: int

    def elements(self, dtype: str) -> int:
        """The size in elements of a type."""
        return max(1, 8 * self.count // width(dtype))

    def __str__(self) -> str:
        return f"{self.count} bytes"


@dataclass(frozen=True)
class Field:
    """One kind of value that a cache holds.

    line     where it lies; one that starts with `kv` holds it for K and for V
    dtype    its type; empty: the cache's
    side     K or V, where the line does not hold both; None: either, on pages of their own
    buffer   the buffer it lies in; empty: one of its own name
    """

    line: str
    dtype: str = ""
    side: int | None = K
    buffer: str = ""


@dataclass(frozen=True)
class Part:
    """One array of a token, as `append` takes it and `gather` returns it: K, V, or the scales of either.

    name, field, side   `v_scale`, the field it lies in, V
    axes                the logical axes of its elements
    """

    name: str
    field: str
    side: int
    axes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One row.

    name         what adapters write in OFFERS
    holds        what its elements belong to: pages, tokens, parts of a split, or elements of a byte format
    fields       name -> Field
    source       who documents it
    inner        parts of an axis -> size, in elements or in Bytes, such as x = 16 bytes
    pad          axis, or part of one, -> multiple that it is rounded up to; the text before a bar -> multiple of the
                 record behind it
    fixed        axis -> the only size it has
    dtypes       storage types it is defined for
    contiguous   every sequence has one page of its own: page i is the whole of sequence i, page_size its capacity
    attends      parts that are, one behind another along dim, K of attention, and those that are V; None: k and v
    word         type of a buffer that holds several types, or values of less than a byte
    table        the page table that its kernels take (specs/tables.py)
    sentinels    slots and pages with a meaning of their own
    """

    name: str
    fields: Mapping[str, Field]
    source: str
    holds: str = "pages"
    inner: Mapping[str, int | Bytes] = field(default_factory=dict)
    pad: Mapping[str, int | Bytes] = field(default_factory=dict)
    fixed: Sizes = field(default_factory=dict)
    dtypes: tuple[str, ...] = tuple(DTYPES)
    contiguous: bool = False
    attends: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    word: str = "uint8"
    table: str = "block_table"
    sentinels: str = ""
    _memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What a token consists of: K before V, then the order of the fields."""
        found = []
        for name, one in self.fields.items():
            axes = pattern.parse(one.line).axes
            if axes[0] == "kv":
                rest = name.removeprefix("kv")
                found += [Part(SIDE_NAMES[side] + rest, name, side, axes[1:]) for side in SIDES]
            elif one.side is None:
                found += [Part(SIDE_NAMES[side], name, side, axes) for side in SIDES]
            else:
                found.append(Part(name, name, one.side, axes))
        return tuple(sorted(found, key=lambda part: part.side))

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The logical axes of its first part."""
        return self.parts[0].axes

    @cached_property
    def every_axis(self) -> tuple[str, ...]:
        """The logical axes of all its parts."""
        return tuple(dict.fromkeys(axis for part in self.parts for axis in part.axes))

    @cached_property
    def kind(self) -> tuple[Any, ...]:
        """What a Case must share with a row to be moved to it."""
        return self.holds, tuple((part.name, part.axes) for part in self.parts), self.contiguous, self.pairs_pages

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """K and V, or K alone for a cache of codes or of latents."""
        return tuple(dict.fromkeys(part.side for part in self.parts))

    @cached_property
    def pairs_pages(self) -> bool:
        """Whether K and V of a token lie on pages of their own."""
        return any(one.side is None for one in self.fields.values())

    @cached_property
    def cuts_again(self) -> bool:
        """Whether a dimension that joins several axes is cut, so that their sizes are not free of each other."""
        return any(len(pattern.parse(one.line).steps) > 1 for one in self.fields.values())

    @cached_property
    def hidden(self) -> tuple[str, ...]:
        """What the arrays of a cache do not tell: axes (and `dtype`) in which two caches of the same shapes differ."""
        axes = [axis for axis in _TRIED if any(axis in part.axes for part in self.parts)]
        tried = [(self.fixed[axis],) if axis in self.fixed else _TRIED[axis] for axis in axes]
        alike: dict[Any, list[tuple[Any, ...]]] = {}
        widths: dict[Any, dict[str, tuple[DType, ...]]] = {}  # dtypes in which a cache has the same shapes
        for dtype in self.dtypes:
            words = tuple(self.word_of(b, dtype) for b in self.buffers)
            widths.setdefault((width(dtype), *(word.itemsize for word in words)), {})[dtype] = words
        for words_of, some in product(widths.values(), product(*tried)):
            sizes: Sizes = {"page": 1, **self.fixed, **dict(zip(axes, some, strict=True))}
            with suppress(LineError):
                shapes = tuple(self.shape(b, sizes, next(iter(words_of))) for b in self.buffers)
                for dtype, words in words_of.items():
                    alike.setdefault((shapes, words), []).append((dtype, *some))
        columns = [list(zip(*several, strict=True)) for several in alike.values() if len(several) > 1]
        return tuple(name for i, name in enumerate(("dtype", *axes)) if any(len(set(c[i])) > 1 for c in columns))

    def argument(self, side: int, values: Mapping[str, Any]) -> Any:
        """K or V as operations take and return it: the one part of the side, a dict of several, None of none."""
        names = [part.name for part in self.of_side(side)]
        if not names:
            return None
        return values[names[0]] if len(names) == 1 else {name: values[name] for name in names}

    @cached_property
    def is_plain(self) -> bool:
        """Whether a token is one K and one V of one width and the cache's own type."""
        names = tuple(part.name for part in self.parts)
        alike = len({part.axes for part in self.parts}) == 1
        return names == SIDE_NAMES and alike and not any(one.dtype for one in self.fields.values())

    @cached_property
    def attended(self) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """The parts that K of attention is made of, and those that V is; none where nothing attends to such a cache."""
        names = {part.name for part in self.parts}
        k, v = self.attends or (((SIDE_NAMES[K],), (SIDE_NAMES[V],)) if names >= set(SIDE_NAMES) else ((), ()))
        return tuple(map(self.part, k)), tuple(map(self.part, v))

    def beside(self, part: Part, what: str) -> Part | None:
        """What numbers of a part are multiplied with, `scale`, or then moved by, `zero`, where the cache holds that."""
        return next((one for one in self.parts if one.name == f"{part.name}_{what}"), None)

    @cached_property
    def has_own_v(self) -> bool:
        """Whether K and V are a part each, of numbers: one of them can be changed alone."""
        return [len(parts) for parts in self.attended] == [1, 1] and self.attended[K] != self.attended[V]

    @cached_property
    def shares_slots(self) -> bool:
        """Whether tokens after each other share a place, such as a scale."""
        return any(pattern.parse(one.line).shared("slot") not in ((), ("slot",)) for one in self.fields.values())

    @cached_property
    def has_scales(self) -> bool:
        """Whether numbers of the cache are multiplied with others beside them."""
        return any(self.beside(part, SCALE) for part in self.parts)

    def part(self, name: str) -> Part:
        """A part by its name."""
        return next(part for part in self.parts if part.name == name)

    def of_side(self, side: int) -> tuple[Part, ...]:
        """The parts of K or of V."""
        return tuple(part for part in self.parts if part.side == side)

    # --- types

    def dtype_of(self, part: Part, dtype: str) -> str:
        """The type of a part in a cache of `dtype`."""
        return self.fields[part.field].dtype or dtype

    def word_of(self, buffer: str, dtype: str) -> DType:
        """The numpy dtype of a buffer."""
        types = {self.fields[name].dtype or dtype for name in self._fields_in(buffer)}
        only = types.pop()
        return host(only) if not types and width(only) >= 8 else np.dtype(self.word)

    # --- sizes

    @cached_property
    def buffers(self) -> tuple[str, ...]:
        """The arrays of a cache, by name."""
        return tuple(dict.fromkeys(one.buffer or name for name, one in self.fields.items()))

    def buffer_of(self, part: Part) -> str:
        """The buffer that a part lies in."""
        return self.fields[part.field].buffer or part.field

    @_remembered
    def measured(self, name: str, sizes: Sizes, dtype: str) -> Measured:
        """The line of a field with the size of every axis. Raises LineError where the row cannot be built."""
        known = {**sizes, **self.fixed, "kv": len(SIDES)}
        totals = {axis: known[axis] for axis in pattern.parse(self.fields[name].line).axes}
        of = self.fields[name].dtype or dtype
        inner, pad = (
            {axis: size.elements(of) if isinstance(size, Bytes) else size for axis, size in table.items()}
            for table in (self.inner, self.pad)
        )
        return pattern.measure(pattern.parse(self.fields[name].line), totals, inner, pad)

    def admits(self, sizes: Sizes, dtype: str) -> bool:
        """Whether the row can be built in these sizes (`split_x` wants head_dim in whole chunks)."""
        return dtype in self.dtypes and not self.flaw(sizes, dtype)

    def flaw(self, sizes: Sizes, dtype: str) -> str:
        """Why the row cannot be built in these sizes, or nothing."""
        if dtype not in self.dtypes:
            return f"{self.name} is not defined for {dtype}; it takes {', '.join(self.dtypes)}"
        for axis, only in self.fixed.items():
            if sizes.get(axis, only) != only:
                return f"{self.name} has {axis} = {only}, not {sizes[axis]}"
        try:
            for buffer in self.buffers:
                self.shape(buffer, sizes, dtype)
        except LineError as e:
            return f"{self.name}: {e}"
        return ""

    @_remembered
    def shape(self, buffer: str, sizes: Sizes, dtype: str) -> tuple[int, ...]:
        """Shape of a buffer's array. Raises LineError where the row cannot be built."""
        word = 8 * self.word_of(buffer, dtype).itemsize
        record, first = self.record(buffer, sizes, dtype), self._fields_in(buffer)[0]
        dims, line = self.measured(first, sizes, dtype).dims, self.fields[first].line
        if len(record.members) > 1:  # several arrays in one buffer: it has no dimensions of its own
            return (_whole(record.bits, word, line),)
        if len(dims) > 1:
            return (*dims[0], _whole(record.members[0][1].bits, word, line))
        return (*dims[0][:-1], _whole(dims[0][-1] * record.members[0][1].bits, word, line))

    def num_bytes(self, buffer: str, sizes: Sizes, dtype: str) -> int:
        """Size of a buffer."""
        return math.prod(self.shape(buffer, sizes, dtype)) * self.word_of(buffer, dtype).itemsize

    @_remembered
    def token_shape(self, part: Part, sizes: Sizes, dtype: str) -> tuple[int, ...]:
        """Shape of one token of a part: its axes but the positions, a shared one by its places."""
        return tuple(size for _, size, _ in self._inside(part, sizes, dtype))

    def token_axes(self, part: Part) -> tuple[str, ...]:
        """Names of the axes of one token of a part."""
        line = pattern.parse(self.fields[part.field].line)
        return tuple(axis for axis in part.axes if axis not in POSITIONS and line.shared(axis) != (axis,))

    def token_grid(self, part: Part, sizes: Sizes, dtype: str, padded: bool = False) -> tuple[Array, ...]:
        """Open coordinates of one token of a part; where a place is shared, its first element."""
        inside = self._inside(part, sizes, dtype, padded)
        coordinates = data.grid(*(places for _, places, _ in inside))
        return tuple(g * step for g, (_, _, step) in zip(coordinates, inside, strict=True))

    def step(self, part: Part, axis: str, sizes: Sizes, dtype: str) -> int:
        """How many neighbours along an axis share one place."""
        shared = pattern.parse(self.fields[part.field].line).shared(axis)
        table = self.measured(part.field, sizes, dtype).sizes[0]
        return math.prod(table[one] for one in shared)

    def _inside(self, part: Part, sizes: Sizes, dtype: str, padded: bool = False) -> list[tuple[str, int, int]]:
        """(axis, places, elements a place) of the axes of one token, with their padding if asked."""
        totals = self.measured(part.field, sizes, dtype).totals if padded else {**sizes, **self.fixed}
        steps = [(axis, self.step(part, axis, sizes, dtype)) for axis in self.token_axes(part)]
        return [(axis, totals[axis] // step, step) for axis, step in steps]

    # --- places

    def address(self, part: Part, at: tuple[Any, ...], sizes: Sizes, dtype: str) -> tuple[str, Any]:
        """(buffer, bit offset in it) of one element of a part.

        at   one int or broadcastable integer array for each of `part.axes`
        """
        measured = self.measured(part.field, sizes, dtype)
        named = dict(zip(part.axes, at, strict=True)) | {"kv": part.side}
        named |= {axis: 0 for axis in part.axes if pattern.parse(self.fields[part.field].line).shared(axis) == (axis,)}
        segments = [
            pattern.ravel(list(zip(index, dims, strict=True)))
            for index, dims in zip(measured.indices(named), measured.dims, strict=True)
        ]
        buffer = self.buffer_of(part)
        record: Record = self.record(buffer, sizes, dtype)
        offset: Any = 0
        for position in segments:
            start, record = record.of(part.field)
            offset = offset + start + position * record.bits
        return buffer, offset

    def everywhere(self, part: Part, sizes: Sizes, dtype: str) -> tuple[Array, ...]:
        """Open coordinates, in the order of `part.axes`, of every place that a part has."""
        axes = [axis for axis in part.axes if axis in (*POSITIONS, *self.token_axes(part))]
        steps = [self.step(part, axis, sizes, dtype) for axis in axes]
        counts = [self.fixed.get(axis, sizes[axis]) // step for axis, step in zip(axes, steps, strict=True)]
        grids = dict(zip(axes, (g * step for g, step in zip(data.grid(*counts), steps, strict=True)), strict=True))
        return tuple(grids.get(axis, np.zeros((1,) * len(axes), np.int64)) for axis in part.axes)

    def places(self, part: Part, sizes: Sizes, dtype: str) -> Array:
        """int64: the bit at which every place of a part begins in its buffer."""
        at = self.everywhere(part, sizes, dtype)
        bits = np.asarray(self.address(part, at, sizes, dtype)[1], np.int64)
        return np.broadcast_to(bits, np.broadcast_shapes(*(a.shape for a in at)))

    def live(self, buffer: str, sizes: Sizes, dtype: str) -> Array:
        """bool, one for each bit of a buffer: whether some part has its place there. The others are padding."""
        alive = np.zeros(8 * self.num_bytes(buffer, sizes, dtype), bool)
        for part in self.parts:
            if self.buffer_of(part) == buffer:
                bits = width(self.dtype_of(part, dtype))
                alive[(self.places(part, sizes, dtype).reshape(-1, 1) + np.arange(bits)).ravel()] = True
        return alive

    def padding(self, buffer: str, sizes: Sizes, dtype: str) -> Array:
        """bool, of the buffer's shape: words that no part has a place in."""
        word = 8 * self.word_of(buffer, dtype).itemsize
        live = self.live(buffer, sizes, dtype).reshape(-1, word).any(1)
        return np.asarray(~live).reshape(self.shape(buffer, sizes, dtype))

    def is_padded(self, sizes: Sizes, dtype: str) -> bool:
        """Whether any buffer has padding: one page has it, or none has."""
        return any(self._is_padded(buffer, {**sizes, "page": 1}, dtype) for buffer in self.buffers)

    @_remembered
    def _is_padded(self, buffer: str, sizes: Sizes, dtype: str) -> bool:
        return bool(self.padding(buffer, sizes, dtype).any())

    def padding_of(self, buffer: str, tokens: tuple[Array, Array], sizes: Sizes, dtype: str) -> Array:
        """bool, of the buffer's shape: padding that lies inside of tokens, which are given as (pages, slots)."""
        word, padding = 8 * self.word_of(buffer, dtype).itemsize, self.padding(buffer, sizes, dtype)
        inside = np.zeros(padding.size, bool)
        for part in self.parts:
            if self.buffer_of(part) == buffer:
                grid = self.token_grid(part, sizes, dtype, padded=True)
                lead = (slice(None), *(None for _ in grid))
                named = dict(zip(self.token_axes(part), grid, strict=True))
                named |= {"page": tokens[0][lead], "slot": tokens[1][lead]}
                at = tuple(named.get(axis, np.zeros((1,) * (1 + len(grid)), np.int64)) for axis in part.axes)
                bits = np.asarray(self.address(part, at, sizes, dtype)[1])
                inside[(bits // word).ravel()] = True
        return padding & inside.reshape(padding.shape)

    def page_of(self, buffer: str, page: int, sizes: Sizes, dtype: str) -> tuple[Any, ...]:
        """Index of all of one page in a buffer's array, padding included."""
        measured = self.measured(self._fields_in(buffer)[0], sizes, dtype)
        dims = measured.line.segments[0]
        dim = next(i for i, group in enumerate(dims) if "page" in group)
        run = math.prod(measured.sizes[-1][axis] for axis in dims[dim] if axis != "page")
        assert dims[dim][0] == "page", f"{self.name}: a page is in pieces of dimension {dim}"
        return (*(slice(None) for _ in range(dim)), slice(page * run, (page + 1) * run))

    def place(
        self, buffer: str, index: tuple[int, ...], sizes: Sizes, dtype: str
    ) -> tuple[Part, dict[str, int]] | None:
        """The part that lies in one word of a buffer, and its place on each axis that is stored; None: padding."""
        shape, word = self.shape(buffer, sizes, dtype), 8 * self.word_of(buffer, dtype).itemsize
        start = int(np.ravel_multi_index(index, shape)) * word
        for part in self.parts:
            if self.buffer_of(part) != buffer:
                continue
            places = self.places(part, sizes, dtype)
            found = np.argwhere((places < start + word) & (places + width(self.dtype_of(part, dtype)) > start))
            if len(found):
                axes = [axis for axis in part.axes if axis in (*POSITIONS, *self.token_axes(part))]
                steps = [self.step(part, axis, sizes, dtype) for axis in axes]
                return part, {axis: int(i) * step for axis, i, step in zip(axes, found[0], steps, strict=True)}
        return None

    def where(self, buffer: str, index: tuple[int, ...], sizes: Sizes, dtype: str) -> str:
        """What lies in one word of a buffer, for people: `k: page 7, slot 3, head 1, dim 0`, or `padding`."""
        return in_words(self.place(buffer, index, sizes, dtype))

    # --- records

    def _fields_in(self, buffer: str) -> tuple[str, ...]:
        return self._fields_by_buffer[buffer]

    @cached_property
    def _fields_by_buffer(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for name, one in self.fields.items():
            found[one.buffer or name] = (*found.get(one.buffer or name, ()), name)
        return found

    @_remembered
    def record(self, buffer: str, sizes: Sizes, dtype: str) -> Record:
        """The buffer as a record: its fields with the size of each."""
        first, *others = self._fields_in(buffer)
        dims = self.measured(first, sizes, dtype).dims
        if not others and len(dims) == 1:  # what `_behind` would say, too
            alone = Record((first,), math.prod(dims[0]), width(self.fields[first].dtype or dtype))
            return Record((first,), 1, alone.count * alone.bits, ((0, alone),))
        return self._behind({name: self.measured(name, sizes, dtype) for name in self._fields_in(buffer)}, 0, dtype)

    def _behind(self, fields: Mapping[str, Measured], depth: int, dtype: str) -> Record:
        """Fields that share everything before their bar number `depth`, one behind another."""
        members: list[Record] = []
        for before, group in groupby(fields, lambda name: _before(fields[name].line.text, depth)):
            some = {name: fields[name] for name in group}
            if before:
                inside = self._behind(some, depth + 1, dtype)
                multiple = self.pad.get(before, Bytes(0))
                unit = 8 * multiple.count if isinstance(multiple, Bytes) else multiple * width(dtype)
                one = replace(inside, bits=pattern.up(inside.bits, unit or 1))
                members.append(replace(one, count=math.prod(next(iter(some.values())).dims[depth])))
            else:
                members += [
                    Record((name,), math.prod(at.dims[depth]), width(self.fields[name].dtype or dtype))
                    for name, at in some.items()
                ]
        ends = list(accumulate(one.count * one.bits for one in members))
        names = tuple(name for one in members for name in one.fields)
        return Record(names, 1, ends[-1], tuple(zip([0, *ends], members, strict=False)))


@dataclass(frozen=True)
class Record:
    """Fields one behind another, repeated.

    fields    the names of all that lie in it
    count     how often it is repeated
    bits      of one repetition, padding included
    members   (bit at which it begins, record); none for a field alone
    """

    fields: tuple[str, ...]
    count: int
    bits: int
    members: tuple[tuple[int, Record], ...] = ()

    def of(self, name: str) -> tuple[int, Record]:
        """(bit at which the member with a field begins, that member)."""
        return next((start, member) for start, member in self.members if name in member.fields)


def in_words(place: tuple[Part, dict[str, int]] | None) -> str:
    """What lies in one word of a buffer (Layout.place), for people."""
    if place is None:
        return "padding"
    part, at = place
    return f"{part.name}: " + ", ".join(f"{axis} {i}" for axis, i in at.items())


def _whole(bits: int, word: int, line: str) -> int:
    if bits % word:
        raise LineError(f"{line!r}: {bits} bits are no whole number of words of {word} bits")
    return bits // word


@cache
def _before(line: str, depth: int) -> str:
    """What stands before bar number `depth` of a line, bar included; nothing behind the last one."""
    segments = pattern.parse(line).segments
    if depth == len(segments) - 1:
        return ""
    dims = [[axes[0] if len(axes) == 1 else f"({' '.join(axes)})" for axes in one] for one in segments[: depth + 1]]
    return " | ".join(" ".join(one) for one in dims) + " |"
