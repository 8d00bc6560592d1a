"""Every misreading of a row by one slip: what goldens, readers and diagnoses must tell from the row itself.

    axes exchanged      two neighbouring physical axes, also across parentheses and bars, in any step of a line
    cut turned round    dim=(x chunk) for dim=(chunk x)
    cut moved           slot=(chunk x) dim for slot dim=(chunk x); what is shared along another axis
    cut resized         half or twice an inner size; elements for bytes
    pad dropped         or counted in elements, not in bytes
    fields exchanged    neighbours in one buffer
    K and V exchanged   all parts, or one kind of them alone

Some of these keep every place where it was (an axis of one element moves nothing): who uses them compares places.
Some cannot be built in every size; `flaw` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from kvconform.specs import pattern
from kvconform.specs.pattern import Cut, Line, Step
from kvconform.specs.row import SIDE_NAMES, SIDES, Bytes, Field, Layout, Part

Misreading = tuple[str, Layout]
Segments = tuple[tuple[tuple[str, ...], ...], ...]


def misread(row: Layout) -> Iterator[Misreading]:
    """Yield (what is wrong, the wrong row), each wrong row once.

    row   a row of LAYOUTS
    """
    for slips in (
        _exchanged_axes,
        _turned_cuts,
        _moved_cuts,
        _resized_cuts,
        _pads,
        _exchanged_fields,
        _exchanged_sides,
    ):
        yield from slips(row)


def same_places(row: Layout, wrong: Layout, sizes: Mapping[str, int], dtype: str) -> bool:
    """Whether every element of every part lies where it lies in the row, in buffers of the same sizes.

    wrong   a misreading that can be built in these sizes
    """
    if any(row.num_bytes(buffer, sizes, dtype) != wrong.num_bytes(buffer, sizes, dtype) for buffer in row.buffers):
        return False
    for part in row.parts:
        at = tuple(np.ogrid[tuple(slice(0, row.fixed.get(axis, sizes[axis])) for axis in part.axes)])
        buffer, bits = row.address(part, at, sizes, dtype)
        other, moved = wrong.address(wrong.part(part.name), at, sizes, dtype)
        bits, moved = np.broadcast_arrays(bits, moved)
        if buffer != other or not np.array_equal(bits, moved):
            return False
    return True


def written(line: Line) -> str:
    """A line as text, the inverse of `pattern.parse`."""
    return ", then ".join(f"{' '.join(map(_cut, step.left))} -> {_right(step)}" for step in line.steps)


@dataclass(frozen=True, kw_only=True)
class SidesExchanged(Layout):
    """A row whose parts of K lie where its V lies, and the reverse, in fields that hold both.

    exchanged   names of those fields
    """

    exchanged: frozenset[str]

    def address(self, part: Part, at: tuple[Any, ...], sizes: Mapping[str, int], dtype: str) -> tuple[str, Any]:
        """The address of the same element of the other side."""
        other = replace(part, side=1 - part.side) if part.field in self.exchanged else part
        return super().address(other, at, sizes, dtype)


# --- physical axes


def _exchanged_axes(row: Layout) -> Iterator[Misreading]:
    seen = set()
    for name, one in row.fields.items():
        line = pattern.parse(one.line)
        for number, step in enumerate(line.steps):
            for pair in _neighbours(row, step.right):
                names = [name]
                if number == len(line.steps) - 1 and pair in _neighbours(row, step.right[:-1]):
                    names = _sharing(row, one.buffer or name, pair)
                lines = {other: _exchange(row.fields[other].line, number, pair) for other in names}
                if tuple(lines.items()) not in seen:
                    seen.add(tuple(lines.items()))
                    first = " in the first arrow" if number < len(line.steps) - 1 else ""
                    yield f"{', '.join(names)}: {pair[0]} and {pair[1]} exchanged{first}", _with_lines(row, lines)


def _neighbours(row: Layout, segments: Segments) -> list[tuple[str, str]]:
    """Pairs of neighbouring axes; one that has one element only does not stand between others."""
    flat = [axis for segment in segments for group in segment for axis in group if row.fixed.get(axis) != 1]
    return list(pairwise(flat))


def _sharing(row: Layout, buffer: str, pair: tuple[str, str]) -> list[str]:
    """The fields of a buffer that have both axes in what they share: a slip in the record, not in one of its fields."""
    return [
        name
        for name, one in row.fields.items()
        if (one.buffer or name) == buffer and pair in _neighbours(row, pattern.parse(one.line).segments[:-1])
    ]


def _exchange(text: str, number: int, pair: tuple[str, str]) -> str:
    other = {pair[0]: pair[1], pair[1]: pair[0]}
    return _with_step(text, number, lambda step: replace(step, right=_renamed(step, other)))


def _renamed(step: Step, names: Mapping[str, str]) -> Segments:
    return tuple(tuple(tuple(names.get(axis, axis) for axis in group) for group in seg) for seg in step.right)


# --- cuts


def _turned_cuts(row: Layout) -> Iterator[Misreading]:
    for name, number, place, cut in _cuts(row):
        for i in range(len(cut.parts) - 1):
            parts = (*cut.parts[:i], cut.parts[i + 1], cut.parts[i], *cut.parts[i + 2 :])
            turned = replace(cut, parts=parts)
            what = f"{name}: {_cut(replace(turned, axis=_axis(cut)))} for {_cut(replace(cut, axis=_axis(cut)))}"
            yield what, _with_cuts(row, name, number, {place: turned}, {})


def _moved_cuts(row: Layout) -> Iterator[Misreading]:
    for name, number, place, cut in _cuts(row):
        left = pattern.parse(row.fields[name].line).steps[0].left
        for there, other in enumerate(left):
            plain = other == Cut(other.axis, (other.axis,)) and other.axis != "kv"
            if number or there == place or not plain or row.fixed.get(other.axis) == 1:
                continue
            whole = cut.parts == (cut.axis,)
            moved = Cut(other.axis, (other.axis,), frozenset({other.axis})) if whole else replace(cut, axis=other.axis)
            wrong = _with_cuts(row, name, 0, {there: moved, place: Cut(cut.axis, (cut.axis,))}, {other.axis: cut.axis})
            yield f"{name}: {_cut(moved)} for {_cut(cut)}", wrong


def _cuts(row: Layout) -> Iterator[tuple[str, int, int, Cut]]:
    """(field, number of the step, place on its left, cut) of every axis that is cut or shared."""
    for name, one in row.fields.items():
        for number, step in enumerate(pattern.parse(one.line).steps):
            for place, cut in enumerate(step.left):
                if len(cut.parts) > 1 or cut.shared:
                    yield name, number, place, cut


def _resized_cuts(row: Layout) -> Iterator[Misreading]:
    used = {part for _, _, _, cut in _cuts(row) for part in cut.parts}
    for part, size in row.inner.items():
        if part in used:
            for what, wrong in _resized(row, size):
                yield f"{part} is {what} {size}", replace(row, inner={**row.inner, part: wrong})
    for name, number, place, cut in _cuts(row):
        for part in filter(str.isdigit, cut.parts):
            for what, size in (("half of", int(part) // 2), ("twice", 2 * int(part))):
                parts = tuple(str(size) if one == part else one for one in cut.parts)
                resized = replace(cut, parts=parts, shared=frozenset(str(size) if o == part else o for o in cut.shared))
                yield (
                    f"{name}: {part} is {what} {part}",
                    _with_cuts(row, name, number, {place: resized}, {part: str(size)}),
                )


def _resized(row: Layout, size: int | Bytes) -> Iterator[tuple[str, int | Bytes]]:
    count = size.count if isinstance(size, Bytes) else size
    for what, wrong in (("half of", count // 2), ("twice", 2 * count)):
        yield what, Bytes(wrong) if isinstance(size, Bytes) else wrong
    yield from _in_elements(row, size)


def _in_elements(row: Layout, size: int | Bytes) -> Iterator[tuple[str, int]]:
    if isinstance(size, Bytes) and any(size.elements(dtype) != size.count for dtype in row.dtypes):
        yield "elements, not bytes, of", size.count


# --- pads, records, sides


def _pads(row: Layout) -> Iterator[Misreading]:
    for axis, size in row.pad.items():
        yield f"{axis} is not padded to {size}", replace(row, pad={a: s for a, s in row.pad.items() if a != axis})
        for what, wrong in _in_elements(row, size):
            yield f"the pad of {axis} is {what} {size}", replace(row, pad={**row.pad, axis: wrong})


def _exchanged_fields(row: Layout) -> Iterator[Misreading]:
    for buffer in row.buffers:
        names = [name for name, one in row.fields.items() if (one.buffer or name) == buffer]
        for pair in pairwise(names):
            other = {pair[0]: pair[1], pair[1]: pair[0]}
            order = [other.get(name, name) for name in row.fields]
            wrong = replace(row, fields={name: row.fields[name] for name in order})
            yield f"{buffer}: {pair[1]} before {pair[0]}", wrong


def _exchanged_sides(row: Layout) -> Iterator[Misreading]:
    kinds = [name for name in row.fields if name.startswith("kv")] or [
        name.removeprefix("k") for name, one in row.fields.items() if one.side == 0 and f"v{name[1:]}" in row.fields
    ]
    for some in [kinds] if len(kinds) < 2 else [kinds, *([kind] for kind in kinds)]:
        if some and "kv" in row.fields:
            yield f"K and V exchanged in {', '.join(some)}", _with_exchanged_index(row, frozenset(some))
        elif some:
            names = {f"{SIDE_NAMES[side]}{kind}": f"{SIDE_NAMES[1 - side]}{kind}" for side in SIDES for kind in some}
            yield f"{', '.join(names)}: K and V exchanged", _with_names(row, names)


def _with_exchanged_index(row: Layout, exchanged: frozenset[str]) -> Layout:
    values = {one.name: getattr(row, one.name) for one in fields(Layout) if one.init}
    return SidesExchanged(**values, exchanged=exchanged)


def _with_names(row: Layout, names: Mapping[str, str]) -> Layout:
    """The row whose fields keep their places and change their names, and with them their sides."""
    renamed = {
        names.get(name, name): _of_other_side(one, one.buffer or name) if name in names else one
        for name, one in row.fields.items()
    }
    return replace(row, fields=renamed)


def _of_other_side(one: Field, buffer: str) -> Field:
    return replace(one, side=None if one.side is None else 1 - one.side, buffer=buffer)


# --- lines


def _with_lines(row: Layout, lines: Mapping[str, str]) -> Layout:
    changed = {name: replace(row.fields[name], line=line) for name, line in lines.items()}
    return replace(row, fields={name: changed.get(name, one) for name, one in row.fields.items()})


def _with_cuts(row: Layout, name: str, number: int, cuts: Mapping[int, Cut], right: Mapping[str, str]) -> Layout:
    def change(step: Step) -> Step:
        left = tuple(cuts.get(place, cut) for place, cut in enumerate(step.left))
        return Step(left, _renamed(step, right))

    return _with_lines(row, {name: _with_step(row.fields[name].line, number, change)})


def _with_step(text: str, number: int, change: Callable[[Step], Step]) -> str:
    line = pattern.parse(text)
    steps = tuple(change(step) if i == number else step for i, step in enumerate(line.steps))
    return written(replace(line, steps=steps))


def _axis(cut: Cut) -> str:
    return cut.axis if cut.axis.isidentifier() else f"({' '.join(cut.parts)})"


def _cut(cut: Cut) -> str:
    marked = [f"[{part}]" if part in cut.shared else part for part in cut.parts]
    if cut.parts == (cut.axis,):
        return marked[0]
    return f"{cut.axis}=({' '.join(marked)})" if cut.axis.isidentifier() else f"({' '.join(marked)})"


def _right(step: Step) -> str:
    segments = [[group[0] if len(group) == 1 else f"({' '.join(group)})" for group in seg] for seg in step.right]
    return " | ".join(" ".join(segment) for segment in segments).strip()
