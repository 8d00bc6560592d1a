"""The index formula of a row, spelled out: what `Layout.address` computes, run on names instead of numbers.

A `Term` adds, multiplies and divides like an int and remembers how. Handing terms to the row's own methods gives the
text of the formula; nothing here knows how a place is computed. The text is Python: with the coordinates, the sizes
and `up` it evaluates to the place (`tests/test_formula.py` does so for every part of every row).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from kvconform.specs.dtypes import width
from kvconform.specs.pattern import LineError, parse
from kvconform.specs.row import Layout, Part, Sizes

NAMES: dict[str, str] = {
    "page": "num_pages",
    "slot": "page_size",
    "head": "num_kv_heads",
    "dim": "head_dim",
    "dim_v": "head_dim_v",
    "rope": "rope_dim",
    "subspace": "num_subspaces",
    "token": "num_tokens",
    "part": "num_parts",
    "seq": "num_seqs",
}
"""Axis -> the name of its size."""

_NAMES_OF = {"splits": {"head": "num_q_heads"}, "elements": {"dim": "num_elements"}}
"""What a row holds -> sizes that have another name there."""

UP = "up(n, m) is n rounded up to a multiple of m"
"""The one function that a formula may call: `pattern.up`."""

_LONG = 24
"""Characters from which a sum of sizes gets a name of its own."""

_SUM, _QUOTIENT, _PRODUCT, _ATOM = range(4)
_BINDS = {"+": _SUM, "//": _QUOTIENT, "%": _QUOTIENT, "*": _PRODUCT}


@dataclass(frozen=True)
class Term:
    """A whole number that is not known yet, such as `page * page_size + slot`.

    op     constant, size or coordinate; an operator; up, and the neg and ceil that it is made of
    args   the number or the name; of what
    """

    op: str
    args: tuple[Any, ...]

    def __add__(self, other: Any) -> Term:
        other = term(other)
        if self.value == 0 or other.value == 0:
            return other if self.value == 0 else self
        merged = self._merged(other)
        return Term("+", (self, other)) if merged is None else merged

    def __radd__(self, other: Any) -> Term:
        return term(other) + self

    def __mul__(self, other: Any) -> Term:
        right = term(other)
        if right.value is not None:
            return self._times(right.value)
        if self.value is not None:
            return right._times(self.value)
        times, rest = self.parted
        if times != 1 and self.of_sizes:
            return (rest * right)._times(times)
        return Term("*", (self, right))

    def __rmul__(self, other: Any) -> Term:
        return term(other) * self

    def __neg__(self) -> Term:
        if self.op == "neg":
            found: Term = self.args[0]
            return found
        if self.op == "//" and self.args[0].op == "neg":
            return Term("ceil", (self.args[0].args[0], self.args[1]))
        return Term("neg", (self,)) if self.value is None else term(-self.value)

    def __floordiv__(self, other: Any) -> Term:
        by = term(other).value
        if by is None:
            return Term("//", (self, other))
        if self.value is not None:
            return term(self.value // by)
        exact = self.divided(by)
        if exact is not None:
            return exact
        whole, shared, _ = self._shared(by)
        by //= shared
        if whole.op == "//" and whole.args[1].value is not None:
            whole, by = whole.args[0], whole.args[1].value * by
        return whole if by == 1 else Term("//", (whole, term(by)))

    def __mod__(self, other: Any) -> Term:
        by = term(other).value
        if by is None:
            return Term("%", (self, other))
        if self.value is not None:
            return term(self.value % by)
        if self.divided(by) is not None:
            return term(0)
        whole, shared, rest = self._shared(by)
        return (Term("%", (whole, term(by // shared))) * shared if by != shared else term(0)) + rest

    def __bool__(self) -> bool:
        """Only a remainder is ever asked, whether a size fits: a formula is of sizes that fit."""
        return bool(self.value)

    @property
    def value(self) -> int | None:
        """The number, of a constant."""
        return self.args[0] if self.op == "constant" else None

    @property
    def parted(self) -> tuple[int, Term]:
        """A constant factor and the rest."""
        if self.value is not None:
            return self.value, term(1)
        if self.op == "*" and self.args[1].value is not None:
            return self.args[1].value, self.args[0]
        return 1, self

    @property
    def of_sizes(self) -> bool:
        """Whether it holds no coordinate: one number for all places."""
        return self.op in ("constant", "size") or (self.op != "coordinate" and all(arg.of_sizes for arg in self.args))

    @property
    def summands(self) -> list[Term]:
        """What it is the sum of, from the left."""
        return self.args[0].summands + self.args[1].summands if self.op == "+" else [self]

    def _times(self, by: int) -> Term:
        if self.value is not None or by in (0, 1):
            return self if by == 1 else term((self.value or 0) * by)
        if self.op == "ceil" and self.args[1].value == by:
            inner = self.args[0]
            padded = inner.op == "up" and inner.args[1].value % by == 0
            return inner if padded else Term("up", self.args)
        times, rest = self.parted
        return Term("*", (rest, term(times * by)))

    def _merged(self, other: Term) -> Term | None:
        """The sum, where some summand is a multiple of the same as `other`: 8 n + 3 n is 11 n."""
        if self.op == "+":
            right = self.args[1]._merged(other)
            if right is not None:
                return Term("+", (self.args[0], right))
            left = self.args[0]._merged(other)
            return None if left is None else Term("+", (left, self.args[1]))
        (times, rest), (more, same) = self.parted, other.parted
        return rest * (times + more) if rest == same else None

    def _shared(self, by: int) -> tuple[Term, int, int]:
        """(whole, factor, rest): it is whole * factor + rest, the factor divides `by` and is above the rest."""
        rest = self.args[1].value if self.op == "+" else None
        times, whole = (self if rest is None else self.args[0]).parted
        shared = math.gcd(times, by)
        if (rest or 0) < shared:
            return whole * (times // shared), shared, rest or 0
        return self, 1, 0

    def divided(self, by: int) -> Term | None:
        """The quotient, or None where it cannot be seen that nothing is left."""
        if self.value is not None:
            return None if self.value % by else term(self.value // by)
        if self.op == "+":
            left, right = (one.divided(by) for one in self.args)
            return None if left is None or right is None else left + right
        if self.op == "*":
            left, right = (one.divided(by) for one in self.args)
            return self.args[0] * right if right is not None else None if left is None else left * self.args[1]
        if self.op == "up":
            left, right = (one.divided(by) for one in self.args)
            return None if left is None or right is None else Term("up", (left, right))
        return self if by == 1 else None

    def __str__(self) -> str:
        if self.op in ("constant", "size", "coordinate"):
            return str(self.args[0])
        left, right = self.args
        if self.op == "up":
            return f"up({left}, {right})"
        if self.op == "+":
            return f"{left} + {right}"
        return f"{left.within(_PRODUCT)} {self.op} {right.within(_PRODUCT if self.op == '*' else _ATOM)}"

    def within(self, binds: int) -> str:
        """Its text as an operand."""
        return str(self) if _BINDS.get(self.op, _ATOM) >= binds else f"({self})"


def term(value: Any) -> Term:
    """A term of a number; a term as it is."""
    return value if isinstance(value, Term) else Term("constant", (value,))


@dataclass(frozen=True)
class Formula:
    """Where one part lies.

    part, buffer   of which part, in which buffer
    text           Python over the coordinates (`page`, `slot`, ...), the sizes (`num_pages`, ...) and `where`
    where          name -> text, for long sums of sizes: `record`, what lies behind one another again and again, and
                   `start`, where the part begins in it
    bits, unit     what it counts, and how many bits that is
    """

    part: str
    buffer: str
    text: str
    where: Mapping[str, str]
    bits: int
    unit: str


def size_name(row: Layout, axis: str) -> str:
    """What the size of an axis is called in a row. Raises LineError for an axis that has no size."""
    names = NAMES | _NAMES_OF.get(row.holds, {})
    if axis not in names:
        line = next(one.line for one in row.fields.values() if axis in parse(one.line).axes)
        raise LineError(f"{row.name}: {line!r}: axis {axis!r} has no size; these have: {', '.join(names)}")
    return names[axis]


def size_names(row: Layout) -> dict[str, str]:
    """Axis -> name of its size, for the axes whose sizes a row leaves open."""
    axes = dict.fromkeys(axis for part in row.parts for axis in part.axes)
    return {axis: size_name(row, axis) for axis in axes if axis not in row.fixed}


def sizes_text(row: Layout, sizes: Sizes) -> str:
    """The sizes of a row's axes, those it fixes included, as people give them: `num_pages 2, page_size 4`."""
    return ", ".join(f"{size_name(row, axis)} {sizes[axis]}" for axis in row.every_axis if axis in sizes)


def all_names() -> dict[str, str]:
    """Name of a size -> its axis, whatever rows call it so."""
    tables = (NAMES, *_NAMES_OF.values())
    return {text: axis for table in tables for axis, text in table.items()}


def formulas(row: Layout, dtype: str) -> dict[str, Formula]:
    """Part -> its index formula: in elements where its buffer has one type, else in bytes, or in bits.

    Constants that a number of bytes stands behind (`x`, `pack`) are those of `dtype`.
    """
    found: dict[str, Formula] = {}
    for buffer in row.buffers:
        parts = [part for part in row.parts if row.buffer_of(part) == buffer]
        offsets = [_offset(row, part, dtype) for part in parts]
        bits, unit = next(
            one for one in _units(row, parts, dtype) if all(o.divided(one[0]) is not None for o in offsets)
        )
        for part, offset in zip(parts, offsets, strict=True):
            found[part.name] = _formula(part.name, buffer, term(offset.divided(bits)), bits, unit)
    return {part.name: found[part.name] for part in row.parts}


def shape_text(row: Layout, buffer: str, dtype: str) -> tuple[str, ...]:
    """The shape of a buffer in names of sizes."""
    return tuple(str(term(size)) for size in row.shape(buffer, _sizes(row), dtype))


def _sizes(row: Layout) -> Mapping[str, Any]:
    return {axis: Term("size", (text,)) for axis, text in size_names(row).items()}


def _offset(row: Layout, part: Part, dtype: str) -> Term:
    return term(row.address(part, tuple(Term("coordinate", (axis,)) for axis in part.axes), _sizes(row), dtype)[1])


def _units(row: Layout, parts: list[Part], dtype: str) -> list[tuple[int, str]]:
    types = {row.dtype_of(part, dtype) for part in parts}
    return [*((width(one), f"elements of {one}") for one in types if len(types) == 1), (8, "bytes"), (1, "bits")]


def _formula(part: str, buffer: str, offset: Term, bits: int, unit: str) -> Formula:
    where: dict[str, str] = {}
    words: list[str] = []
    for of_sizes, summands in groupby(offset.summands, lambda one: one.of_sizes):
        named = [str(one if of_sizes else _with_record(one, where)) for one in summands]
        if of_sizes and len(" + ".join(named)) > _LONG:
            where["start"] = " + ".join(named)
            named = ["start"]
        words += named
    return Formula(part, buffer, " + ".join(words), where, bits, unit)


def _with_record(one: Term, where: dict[str, str]) -> Term:
    """The term with its long sum of sizes named."""
    summed = one.args[0] if one.op == "up" else one
    if one.of_sizes and summed.op == "+" and len(str(one)) > _LONG and where.setdefault("record", str(one)) == str(one):
        return Term("size", ("record",))
    if one.op in ("constant", "size", "coordinate"):
        return one
    return Term(one.op, tuple(_with_record(arg, where) for arg in one.args))
