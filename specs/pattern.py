"""The notation of a layout: `logical axes -> physical axes`, slowest axis first.

    page slot head dim                  ->  page head slot dim          heads before slots
    kv page slot head dim               ->  page slot (head kv) dim     K and V rows alternate inside the head axis
    page slot head dim=(chunk x)        ->  page head chunk slot x      dim in chunks of x
    page slot head dim=(block [16])     ->  page slot head block        one place for every 16 of dim
    page slot head [dim]                ->  page slot head              one place for the whole of dim
    page slot dim                       ->  page slot | dim             what stands before a bar is shared by several
                                                                        fields, which lie one behind another in it
    kv page slot head dim -> page slot (head kv) dim, then page slot (row pack) dim -> page slot row pack dim
                                                                        joined first, then cut again

A name is an axis; parentheses make one dimension of several axes; brackets share: what they hold has no place of its
own on the right. Shape and index formula both follow from the line; nothing else in the project knows how an
element's place is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

Group = tuple[str, ...]

_ITEM = re.compile(
    r"(?:(?P<name>\w+)=)?\((?P<parts>[^()]*)\)|\[(?P<whole>\w+)\]|(?P<bar>\|)|(?P<axis>\w+)|(?P<junk>\S)"
)


class LineError(ValueError):
    """A line that cannot be read, or that does not fit its sizes; the text repeats the line."""


@dataclass(frozen=True)
class Cut:
    """One axis on the left of an arrow.

    axis     its name
    parts    the axes it is cut into, slowest first; itself where it is not cut
    shared   those of them that have no place on the right
    """

    axis: str
    parts: Group
    shared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """One arrow: axes as they are cut, and the dimensions they become, in segments between bars."""

    left: tuple[Cut, ...]
    right: tuple[tuple[Group, ...], ...]

    @property
    def dims(self) -> tuple[Group, ...]:
        """Every dimension, whatever segment it is in."""
        return tuple(group for segment in self.right for group in segment)


@dataclass(frozen=True)
class Line:
    """A line, read. The steps after the first cut again what the step before has joined."""

    text: str
    steps: tuple[Step, ...]

    @cached_property
    def axes(self) -> Group:
        """The logical axes, in the line's order."""
        return tuple(cut.axis for cut in self.steps[0].left)

    @property
    def segments(self) -> tuple[tuple[Group, ...], ...]:
        """The physical dimensions, in segments between bars."""
        return self.steps[-1].right

    def shared(self, axis: str) -> Group:
        """The parts of a logical axis that share one place."""
        return self._shared[axis]

    @cached_property
    def _shared(self) -> Mapping[str, Group]:
        return {cut.axis: tuple(part for part in cut.parts if part in cut.shared) for cut in self.steps[0].left}


@cache
def parse(text: str) -> Line:
    """Read a line.

    Raises LineError when an axis is missing on one side, stands twice, or a mark cannot be read.
    """
    steps: list[Step] = []
    for part in text.split(", then "):
        left, arrow, right = part.partition("->")
        if not arrow:
            raise LineError(f"{text!r}: {part.strip()!r} has no '->'")
        for side, where in ((left, "left"), (right, "right")):
            if not side.strip():
                raise LineError(f"{text!r}: no axis stands on the {where} of '->'")
        steps.append(Step(tuple(_left(text, left)), tuple(_right(text, right))))
        _check(text, steps[-1])
    unnamed = [cut.axis for cut in steps[0].left if not cut.axis.isidentifier()]
    if unnamed:
        raise LineError(f"{text!r}: {unnamed[0]} cuts an axis without a name; write axis={unnamed[0]}")
    for before, after in pairwise(steps):
        if len(before.dims) != len(after.left):
            raise LineError(f"{text!r}: 'then' cuts {len(after.left)} dimensions, but there are {len(before.dims)}")
        if len(before.right) > 1:
            raise LineError(f"{text!r}: a bar stands before 'then'; only the last arrow may have bars")
    return Line(text, tuple(steps))


def _left(text: str, side: str) -> list[Cut]:
    cuts = []
    for item in _ITEM.finditer(side):
        if item["junk"] or item["bar"]:
            raise LineError(f"{text!r}: cannot read {item[0]!r} on the left of '->'")
        if item["whole"]:
            cuts.append(Cut(item["whole"], (item["whole"],), frozenset({item["whole"]})))
        elif item["axis"]:
            cuts.append(Cut(item["axis"], (item["axis"],)))
        else:
            words = item["parts"].split()
            parts = tuple(word.strip("[]") for word in words)
            shared = frozenset(word.strip("[]") for word in words if word.startswith("["))
            cuts.append(Cut(item["name"] or f"({item['parts']})", parts, shared))
    return cuts


def _right(text: str, side: str) -> list[tuple[Group, ...]]:
    segments: list[list[Group]] = [[]]
    for item in _ITEM.finditer(side):
        if item["bar"]:
            segments.append([])
        elif item["axis"]:
            segments[-1].append((item["axis"],))
        elif item["parts"] is not None and not item["name"]:
            segments[-1].append(tuple(item["parts"].split()))
        else:
            raise LineError(f"{text!r}: cannot read {item[0]!r} on the right of '->'")
    return [tuple(segment) for segment in segments]


def _check(text: str, step: Step) -> None:
    want = sorted(part for cut in step.left for part in cut.parts if part not in cut.shared)
    got = sorted(axis for group in step.dims for axis in group)
    for names, side in ((want, "left"), (got, "right")):
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise LineError(f"{text!r}: axis {twice[0]!r} stands twice on the {side} of '->'; each stands there once")
    for missing, there, lacking in ((set(want) - set(got), "left", "right"), (set(got) - set(want), "right", "left")):
        if missing:
            raise LineError(
                f"{text!r}: axis {min(missing)!r} is on the {there} of '->' but not on the {lacking}; both sides name "
                "the same axes, except those in [brackets]"
            )


def up(size: int, multiple: int) -> int:
    """The next multiple that is not below a size."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Measured:
    """A line with the size of every axis and part.

    sizes   axis or part -> size, one table a step
    """

    line: Line
    sizes: tuple[Mapping[str, int], ...]

    @cached_property
    def totals(self) -> Mapping[str, int]:
        """Logical axis -> its size, padding included."""
        return {cut.axis: math.prod(self.sizes[0][part] for part in cut.parts) for cut in self.line.steps[0].left}

    @cached_property
    def dims(self) -> tuple[tuple[int, ...], ...]:
        """Size of each physical dimension, in segments between bars."""
        table = self.sizes[-1]
        return tuple(tuple(math.prod(table[axis] for axis in group) for group in seg) for seg in self.line.segments)

    def indices(self, at: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
        """The index into each physical dimension, in segments between bars: the whole index formula.

        at   logical axis -> int or broadcastable integer array, of elements: where a place is shared, any that share it
        """
        values = [at[axis] for axis in self.line.axes]
        segments: list[tuple[Any, ...]] = []
        for step, sizes in zip(self.line.steps, self.sizes, strict=True):
            parts: dict[str, Any] = {}
            for cut, value in zip(step.left, values, strict=True):
                rest = value
                for part in reversed(cut.parts[1:]):
                    rest, parts[part] = rest // sizes[part], rest % sizes[part]
                parts[cut.parts[0]] = rest
            segments = [tuple(ravel([(parts[a], sizes[a]) for a in group]) for group in seg) for seg in step.right]
            values = [value for segment in segments for value in segment]
        return tuple(segments)


def ravel(index_and_size: list[tuple[Any, int]]) -> Any:
    """Position in a box, its last axis fastest."""
    position: Any = 0
    for index, size in index_and_size:
        position = position * size + index
    return position


def measure(line: Line, totals: Mapping[str, int], inner: Mapping[str, int], pad: Mapping[str, int]) -> Measured:
    """Give every axis and part its size.

    totals   logical axis -> its size
    inner    part -> its size, where the line does not say it with a number
    pad      logical axis, or part of one, -> multiple that its size is rounded up to
    Raises LineError when a size is not a multiple of the parts it is cut into.
    """
    tables: list[dict[str, int]] = []
    for step in line.steps:
        sizes: dict[str, int] = {}
        if tables:
            dims = [math.prod(tables[-1][axis] for axis in group) for group in line.steps[len(tables) - 1].dims]
        else:
            dims = [up(totals[cut.axis], pad.get(cut.axis, 1)) for cut in step.left]
        for cut, total in zip(step.left, dims, strict=True):
            _cut(line, cut, total, inner, sizes)
        sizes.update({part: up(size, pad[part]) for part, size in sizes.items() if part in pad})
        tables.append(sizes)
    return Measured(line, tuple(tables))


def _cut(line: Line, cut: Cut, total: int, inner: Mapping[str, int], sizes: dict[str, int]) -> None:
    if len(cut.parts) == 1:
        sizes[cut.parts[0]] = total
        return
    known = {part: int(part) for part in cut.parts if part.isdigit()}
    known |= {part: inner[part] for part in cut.parts if part in inner}
    free = [part for part in cut.parts if part not in known]
    product = math.prod(known.values())
    if len(free) > 1 or (not free and product != total) or total % product:
        named = ", ".join(part if part == str(size) else f"{part} = {size}" for part, size in known.items())
        if len(free) > 1:
            raise LineError(
                f"{line.text!r}: {cut.axis} is cut into {' and '.join(free)}, and no size is known of either"
            )
        raise LineError(f"{line.text!r}: {cut.axis} = {total} is not a multiple of {product} ({named})")
    sizes.update(known)
    sizes.update(dict.fromkeys(free, total // product))
