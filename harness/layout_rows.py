"""How the memory of a layout is cut into the rows and runs of its picture."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kvconform.harness.layout_picture import (
    LEFT_OUT,
    LETTERS,
    PADDING,
    SHADED_BY,
    Cell,
    Drawn,
    Picture,
    PictureError,
    Row,
    Run,
    Strip,
)
from kvconform.specs.dtypes import width
from kvconform.specs.row import POSITIONS, Layout, Part

LONGEST_ROW, MOST_CELLS, MOST_ROWS, MOST_BYTES = 33, 540, 32, 1 << 20
"""Places of a row, and of a picture, that are drawn one by one; rows of a buffer; bytes of one that is looked at."""

_FEW, _WIDE, _WIDEST = 6, 130, 170
"""Cells below which a row is joined to the next; characters beyond which it is not; those beyond which it is cut."""

_EACH_STRIP = (12, 8, 6, 4)
"""How many rows of a strip are drawn: as many as the picture has room for."""

Array = np.ndarray[Any, Any]


def picture(row: Layout, sizes: Mapping[str, int], dtype: str) -> Picture:
    """Lay out all buffers. Raises PictureError where the row cannot be built, or is too large to draw."""
    flaw = row.flaw(sizes, dtype)
    if flaw:
        raise PictureError(flaw)
    for buffer in row.buffers:
        size = row.num_bytes(buffer, sizes, dtype)
        if size > MOST_BYTES:
            raise PictureError(
                f"{row.name}: {buffer} has {size} bytes in these sizes; a picture has at most {MOST_BYTES}"
            )
    places = {buffer: _places(row, buffer, sizes, dtype) for buffer in row.buffers}
    for most in _EACH_STRIP:
        notes: list[str] = []
        buffers = tuple(_Buffer(row, name, places[name], sizes, dtype, most).drawn(notes) for name in row.buffers)
        found = Picture(row, sizes, dtype, buffers, tuple(dict.fromkeys(notes)))
        if found.num_cells <= MOST_CELLS and max(len(one.rows) for one in buffers) <= MOST_ROWS:
            break
    if any(run.part == PADDING or (run.text and len(run.cells) > 1) for run in found.runs):
        found = replace(found, notes=(*found.notes, "Blocks with a count are not to scale."))
    return found


@dataclass(frozen=True)
class _Places:
    """Every place in a buffer, by its bit.

    parts   the buffer's parts
    start   bit at which each place begins, ascending
    bits    of each place
    part    index of its part
    at      axis -> its coordinate, -1 where its part has no such axis
    """

    parts: tuple[Part, ...]
    start: list[int]
    bits: list[int]
    part: list[int]
    at: Mapping[str, list[int]]

    def between(self, first: int, end: int) -> range:
        """The places that begin in a stretch of bits."""
        return range(bisect_left(self.start, first), bisect_left(self.start, end))

    def varying(self, one: int, other: int) -> list[str]:
        """The axes in which two places differ."""
        return [axis for axis, values in self.at.items() if values[one] != values[other]]


def _places(row: Layout, buffer: str, sizes: Mapping[str, int], dtype: str) -> _Places:
    parts = tuple(part for part in row.parts if row.buffer_of(part) == buffer)
    shown = [{axis for axis in part.axes if axis in (*POSITIONS, *row.token_axes(part))} for part in parts]
    axes = [axis for axis in LETTERS if any(axis in some for some in shown)]
    found: dict[str, list[Array]] = {name: [] for name in ("start", "bits", "index", *axes)}
    for index, part in enumerate(parts):
        start: Array = row.places(part, sizes, dtype)
        named = dict(zip(part.axes, row.everywhere(part, sizes, dtype), strict=True))
        keep = np.ones(start.shape, bool)
        if row.pairs_pages:
            keep &= named["page"] % 2 == part.side
        columns: dict[str, Any] = {"start": start, "bits": width(row.dtype_of(part, dtype)), "index": index}
        columns |= {axis: named[axis] if axis in shown[index] else -1 for axis in axes}
        for name, values in columns.items():
            found[name].append(np.broadcast_to(np.asarray(values), start.shape)[keep])
    order = np.argsort(np.concatenate(found["start"]), kind="stable")
    lists: dict[str, list[int]] = {name: np.concatenate(values)[order].tolist() for name, values in found.items()}
    return _Places(parts, lists["start"], lists["bits"], lists["index"], {axis: lists[axis] for axis in axes})


@dataclass(frozen=True)
class _Area:
    """Equal boxes one behind another: an array's elements, or records.

    start, dims, bits   where it begins, its dimensions, the bits of one box
    indexed             whether its indices are those of the buffer
    record              whether a box holds several arrays
    """

    start: int
    dims: tuple[int, ...]
    bits: int
    indexed: bool = False
    record: bool = False


class _Buffer:
    """One buffer of a row in some sizes."""

    def __init__(
        self, row: Layout, buffer: str, places: _Places, sizes: Mapping[str, int], dtype: str, most: int
    ) -> None:
        self.row, self.buffer, self.places, self.sizes, self.dtype, self.most = row, buffer, places, sizes, dtype, most
        self.end = 8 * row.num_bytes(buffer, sizes, dtype)
        self.hidden = ""

    def drawn(self, notes: list[str]) -> Drawn:
        """Lay it out; what is left out is told in `notes`."""
        notes += self._narrowed()
        shape = ", ".join(map(str, self.row.shape(self.buffer, self.sizes, self.dtype)))
        word = self.row.word_of(self.buffer, self.dtype)
        record = self.row.record(self.buffer, self.sizes, self.dtype)
        strips = [self._strip(area) for area in self._areas(record, 0, 0, notes)]
        bits = 8 * word.itemsize
        narrow = bits if min(self.places.bits) < bits else 0
        return Drawn(self.buffer, f"{word.name} [{shape}]", tuple(one for one in strips if one.rows), narrow)

    def _narrowed(self) -> Iterator[str]:
        """Show page 0 alone where pages follow one another; what to say of it."""
        num_pages, pages = self.sizes.get("page", 1), self.places.at.get("page", [])
        if num_pages == 1 or not pages:
            return
        last_of_first = max(start for start, page in zip(self.places.start, pages, strict=True) if page == 0)
        if self.row.pairs_pages:
            yield "A page holds K or V: here page 0 holds K, page 1 V."
        elif any(page for start, page in zip(self.places.start, pages, strict=True) if start < last_of_first):
            yield "All pages are shown, for a page is not in one piece."
        elif self.sizes.get("slot") == 1:
            yield "All pages are shown, for a page is one token."
        else:
            self.end, self.hidden = self.end // num_pages, "page"
            held = ", which is the whole of sequence 0" if self.row.contiguous else ""
            yield f"Page 0 of {num_pages}{held}; the next lies behind it in the same form."

    # --- rows

    def _areas(self, record: Any, depth: int, start: int, notes: list[str]) -> Iterator[_Area]:
        """What a record consists of, down to what is drawn in rows; of records that repeat the first."""
        end = start
        for offset, member in record.members:
            if self._is_in_rows(member, depth):
                dims = self._dims(member, depth)
                yield _Area(
                    start + offset, dims, member.bits, not depth and len(record.members) == 1, bool(member.members)
                )
            else:
                if member.count > 1 and not self.hidden:
                    notes.append(f"Record 0 of {member.count}; the next lies behind it in the same form.")
                yield from self._areas(member, depth + 1, start + offset, notes)
            end = start + offset + member.count * member.bits
        if depth and end < start + record.bits:
            yield _Area(end, (1,), start + record.bits - end)

    def _dims(self, member: Any, depth: int) -> tuple[int, ...]:
        return self.row.measured(member.fields[0], self.sizes, self.dtype).dims[depth]

    def _is_in_rows(self, member: Any, depth: int) -> bool:
        """Whether it is an array, or records that are short or plain enough to be a row each."""
        inner = [one for _, one in member.members]
        if any(one.members for one in inner):
            return False
        plain = all(sum(size > 1 for size in self._dims(one, depth + 1)) <= 1 for one in inner)
        return plain or sum(one.count for one in inner) <= LONGEST_ROW

    def _strip(self, area: _Area) -> Strip:
        taken = self._taken(area)
        lead, bits = area.dims[: len(area.dims) - taken], self._bits(area, taken)
        starts = {index: area.start + number * bits for number, index in enumerate(np.ndindex(*lead))}
        starts = {index: start for index, start in starts.items() if start < self.end}
        whole = any(len(self.places.between(start, start + bits)) > LONGEST_ROW for start in starts.values())
        rows: list[Row | None] = []
        kept = _kept(list(starts), self.most)
        for index, start in starts.items():
            if index in kept:
                label = f"[{', '.join([*map(str, index), *[':'] * (taken + area.record)])}]"
                runs = _shortened(list(self._runs(start, start + bits, whole=whole)))
                rows.append(Row(label if area.indexed else f"byte {start // 8}", tuple(runs)))
            elif rows and rows[-1] is not None:
                rows.append(None)
        return Strip(tuple(rows))

    def _bits(self, area: _Area, taken: int) -> int:
        return math.prod(area.dims[len(area.dims) - taken :]) * area.bits

    def _taken(self, area: _Area) -> int:
        """How many of the innermost dimensions make a row: two where it stays short, or would else be a few cells."""
        taken = 0 if area.record or not area.dims else 1
        while taken < len(area.dims):
            more = self._bits(area, taken + 1)
            if more > self.end or sum(size > 1 for size in area.dims[len(area.dims) - taken - 1 :]) > 2 - area.record:
                break
            if len(self.places.between(area.start, area.start + more)) > LONGEST_ROW:
                now = len(self.places.between(area.start, area.start + self._bits(area, taken)))
                joined = list(self._runs(area.start, area.start + more, whole=True))
                return taken + 1 if now < _FEW and len(joined) == 1 else taken
            if sum(run.num_letters for run in self._runs(area.start, area.start + more, whole=False)) > _WIDE:
                break
            taken += 1
        return taken

    # --- runs

    def _runs(self, first: int, end: int, *, whole: bool) -> Iterator[Run]:
        """What lies in a stretch of bits."""
        at, some = first, list[int]()
        for number in self.places.between(first, end):
            start = self.places.start[number]
            if some and (start > at or not self._continues(some, number)):
                yield self._run(some, whole=whole)
                some = []
            if start > at:
                yield self._padding(at, start)
            some.append(number)
            at = start + self.places.bits[number]
        if some:
            yield self._run(some, whole=whole)
        if at < end:
            yield self._padding(at, end)

    def _continues(self, some: list[int], number: int) -> bool:
        """Whether a place is of the same part and differs in the axis in which the others differ."""
        if self.places.part[number] != self.places.part[some[0]]:
            return False
        differs = self.places.varying(some[0], number)
        return len(differs) == 1 and (len(some) == 1 or differs == self.places.varying(some[0], some[-1]))

    def _padding(self, start: int, end: int) -> Run:
        types = {self.row.dtype_of(part, self.dtype) for part in self.places.parts}
        unit, name = (width(*types), types.pop()) if len(types) == 1 else (8, "")
        count = (end - start) // unit
        text = f"{count} x {name}" if name else f"{count} byte{'s' * (count > 1)}"
        return Run(PADDING, "", f"padding {text}", start, end - start)

    def _run(self, some: list[int], *, whole: bool) -> Run:
        part = self.places.parts[self.places.part[some[0]]]
        varying = "".join(self.places.varying(some[0], some[-1]))
        axes = [axis for axis, values in self.places.at.items() if values[some[0]] >= 0]
        values = {axis: [self.places.at[axis][number] for number in some] for axis in axes}
        steps = {axis: self.row.step(part, axis, self.sizes, self.dtype) for axis in axes}
        same = [_span(axis, values[axis][:1], steps[axis]) for axis in axes if axis not in (varying, self.hidden)]
        labels = [_span(varying, [value], steps[varying]) for value in values[varying]] if varying else [""]
        shade = next((values[axis] for axis in SHADED_BY if axis in axes), [0] * len(some))
        text = of = self.row.dtype_of(part, self.dtype)
        if varying and not whole:
            text = ""
        elif varying:
            span, text = _span(varying, values[varying], steps[varying]), f"{len(some)} x {of}"
            text = text if span else f"{' '.join(labels[:6])} .. {' '.join(labels[-2:])}, {text}"
            same += [span] if span else []
        start, bits = self.places.start[some[0]], self.places.bits[some[0]]
        return Run(part.name, " ".join(same), text, start, bits, tuple(map(Cell, labels, shade)))


def _span(axis: str, values: list[int], step: int) -> str:
    """`d3` for one value, `d0-511` for values in a row, nothing for others."""
    if any(after - before != step for before, after in itertools.pairwise(values)):
        return ""
    last = values[-1] + step - 1
    return f"{LETTERS[axis][0]}{values[0]}" + (f"-{last}" if last > values[0] else "")


def _shortened(runs: list[Run]) -> list[Run]:
    """The runs of a row: all, or the first few and the last."""
    if sum(run.num_letters for run in runs) <= _WIDEST or len(runs) <= 5:
        return runs
    left_out = Run(LEFT_OUT, "", f"... {len(runs) - 4} more", runs[3].start, 0)
    return [*runs[:3], left_out, runs[-1]]


def _kept(shown: list[tuple[int, ...]], most: int) -> set[tuple[int, ...]]:
    """The rows that are drawn: along each dimension all, or the first few and the last, fewest along the longest."""
    last = [max(values) for values in zip(*shown, strict=True)]
    room = [n + 1 for n in last]
    while math.prod(room) > most:
        longest = max(range(len(room)), key=lambda axis: (room[axis], axis))
        room[longest] = min(room[longest] - 1, 4)
    kept = [{*range(max(1, size - 1)), *[n] * (size > 1)} for size, n in zip(room, last, strict=True)]
    return set(itertools.product(*kept)) & set(shown)
