"""Which rows are the same bytes, and when: every pair compared in many geometries, and the condition that tells.

What is written here is what was found. A condition is named only if it holds in exactly those geometries in which the
two rows agree; it is looked for among few, and where none of them fits the share of geometries is given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import combinations, product
from typing import Any

from kvconform.specs.compare import DIFFERENT, RESHAPED, SAME, holds, places
from kvconform.specs.dtypes import width
from kvconform.specs.formula import size_name
from kvconform.specs.layouts import LAYOUTS, Layout
from kvconform.specs.row import Sizes

SIZES: dict[str, tuple[int, ...]] = {
    "page": (2,),
    "slot": (1, 3, 4, 32),
    "head": (1, 2, 3, 4),
    "dim": (64, 72, 96, 128, 256),
    "dim_v": (40, 64),
    "subspace": (1, 5),
    "token": (3,),
    "part": (2,),
    "seq": (2,),
}
"""Sizes that are tried; a row that fixes one has that one alone."""

Condition = Callable[[Sizes, str], bool]

CONDITIONS: dict[str, Condition] = {
    "page_size is 1": lambda s, dtype: s["slot"] == 1,
    "num_kv_heads is 1": lambda s, dtype: s["head"] == 1,
    "head_dim is a multiple of 128": lambda s, dtype: s["dim"] % 128 == 0,
    "head_dim is a multiple of 32 bytes": lambda s, dtype: s["dim"] * width(dtype) % 256 == 0,
    "2 * num_kv_heads are whole packs of 4 bytes": lambda s, dtype: 2 * s["head"] * width(dtype) % 32 == 0,
    "num_kv_heads are whole packs of 4 bytes": lambda s, dtype: s["head"] * width(dtype) % 32 == 0,
    "page_size is a pack of 4 bytes or fewer": lambda s, dtype: s["slot"] * width(dtype) <= 32,
    "page_size is at most 16 bytes": lambda s, dtype: s["slot"] * width(dtype) <= 128,
    "elements have 4 bytes": lambda s, dtype: width(dtype) == 32,
    "there is one subspace": lambda s, dtype: s["subspace"] == 1,
}
"""What may decide whether two rows are the same bytes."""


@dataclass(frozen=True)
class Equivalence:
    """What was found of two rows.

    names       both rows
    relation    SAME, RESHAPED or DIFFERENT, where they agree at all
    when        empty: always; else the condition, or the share of geometries
    agree, tried   geometries in which they are the same bytes, and in which both can be built
    sizes, dtype   the first geometry in which they differ, or the first of all
    """

    names: tuple[str, str]
    relation: str
    when: str
    agree: int
    tried: int
    sizes: Sizes
    dtype: str

    @property
    def only(self) -> str:
        """The sizes that one of the two fixes and the other leaves open: nothing is said of other ones."""
        a, b = (LAYOUTS[name] for name in self.names)
        fixed = [
            f"{row.name} has {size_name(row, axis)} {size} alone"
            for row, other in ((a, b), (b, a))
            for axis, size in row.fixed.items()
            if axis in other.every_axis and axis not in other.fixed
        ]
        return " and ".join(fixed)

    def __str__(self) -> str:
        text = f"{self.names[0]} and {self.names[1]}: "
        if not self.agree:
            text += f"different in each of {self.tried} geometries tried"
        elif self.when:
            text += f"{self.relation} where {self.when}, else different"
        else:
            text += f"{self.relation} in each of {self.tried} geometries tried"
        return "; ".join(filter(None, [text, self.only]))


def _geometries(row: Layout, other: Layout) -> Iterator[tuple[Sizes, str]]:
    """Sizes and dtypes that both rows may have; one dtype of each width."""
    dtypes = {width(dtype): dtype for dtype in reversed(row.dtypes) if dtype in other.dtypes}
    axes = {axis for one in (row, other) for part in one.parts for axis in part.axes}
    fixed = {**row.fixed, **other.fixed}
    tried = {axis: (fixed[axis],) if axis in fixed else SIZES[axis] for axis in (*SIZES, *fixed) if axis in axes}
    for dtype, some in product(dtypes.values(), product(*tried.values())):
        yield {**dict.fromkeys(SIZES, 1), **dict(zip(tried, some, strict=True))}, dtype


@dataclass(frozen=True)
class _Seen:
    """One row in one geometry: what it holds, its places with the size of all buffers, shapes of the buffers."""

    holds: tuple[Any, ...]
    bytes: tuple[Any, ...]
    shapes: tuple[Any, ...]


@cache
def _seen(name: str, sizes: tuple[tuple[str, int], ...], dtype: str) -> _Seen | None:
    row, table = LAYOUTS[name], dict(sizes)
    if row.flaw(table, dtype):
        return None
    parts = sorted(row.parts, key=lambda part: part.name)
    bits = tuple(sha256(places(row, part, table, dtype).tobytes()).digest() for part in parts)
    num_bytes = sum(row.num_bytes(buffer, table, dtype) for buffer in row.buffers)
    shapes = tuple((row.shape(b, table, dtype), row.word_of(b, dtype).name) for b in row.buffers)
    return _Seen(holds(row, table, dtype), (bits, num_bytes), shapes)


def equivalence(row: Layout, other: Layout) -> Equivalence | None:
    """Compare two rows in every geometry; None where they hold different things, or are never built together."""
    found: list[tuple[Sizes, str, bool]] = []
    same_shape = True
    for sizes, dtype in _geometries(row, other) if row.holds == other.holds else ():
        a, b = (_seen(one.name, tuple(sizes.items()), dtype) for one in (row, other))
        if a is None or b is None:
            continue
        if a.holds != b.holds:
            return None
        found.append((sizes, dtype, a.bytes == b.bytes))
        same_shape &= a.shapes == b.shapes or a.bytes != b.bytes
    agree = sum(same for _, _, same in found)
    if not found:
        return None
    relation = DIFFERENT if not agree else SAME if same_shape else RESHAPED
    when = "" if agree in (0, len(found)) else _condition(found)
    sizes, dtype, _ = next((one for one in found if not one[2]), found[0])
    axes = {axis for part in row.parts for axis in part.axes}
    shown = {axis: size for axis, size in sizes.items() if axis in axes}
    return Equivalence((row.name, other.name), relation, when, agree, len(found), shown, dtype)


def _condition(found: list[tuple[Sizes, str, bool]]) -> str:
    """The shortest condition that holds where two rows agree and nowhere else, or how often they agree."""
    want = [same for _, _, same in found]
    tables = {text: [applies(s, dtype) for s, dtype, _ in found] for text, applies in CONDITIONS.items()}
    for text, table in _joined(tables):
        if table == want:
            return text
    return f"{sum(want)} of {len(want)} geometries"


def _joined(tables: Mapping[str, list[bool]]) -> Iterator[tuple[str, list[bool]]]:
    """Conditions alone, two by `or` or `and`, then such pairs and a third."""
    pairs = [
        (f"{one} {word} {other}", [join((x, y)) for x, y in zip(tables[one], tables[other], strict=True)])
        for word, join in (("or", any), ("and", all))
        for one, other in combinations(tables, 2)
    ]
    yield from tables.items()
    yield from pairs
    for (pair, table), third in product(pairs, tables):
        text = f"({pair})" if " or " in pair else pair
        yield f"{text} and {third}", [x and y for x, y in zip(table, tables[third], strict=True)]


def equivalences(rows: Iterable[Layout] | None = None) -> list[Equivalence]:
    """Every pair of rows that hold the same things, those first that are always the same bytes."""
    pairs = combinations(list(rows or LAYOUTS.values()), 2)
    found = [one for pair in pairs if (one := equivalence(*pair)) is not None]
    order: Mapping[str, int] = {SAME: 0, RESHAPED: 1, DIFFERENT: 3}
    return sorted(found, key=lambda one: (2 if one.when else order[one.relation], one.relation != SAME))
