"""What the places of one part's elements mean: a row, a row on other pages, other heads, strides, or none of these.

Readings are tried in that order, and a reading holds for every element that decodes or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np

from kvconform.oracles.diagnosis import wrong_tables
from kvconform.oracles.diagnosis.candidates import Source, candidates
from kvconform.oracles.diagnosis.codes import NONE
from kvconform.oracles.diagnosis.observed import Observed, Seen
from kvconform.oracles.diagnosis.strides import Strides, linear_axes, strides
from kvconform.specs.data import Array
from kvconform.specs.dtypes import width
from kvconform.specs.layouts import Layout

GLANCE = 64
"""Elements that are looked at before all of them are."""

SHOWN = 8
"""Indices that are listed, at most."""


@dataclass(frozen=True)
class Placement:
    """Where one part lies.

    part    its name
    rows    the rows that have it there, the nearest to the claimed one first; none: no row does
    of      the part that those rows have there: its own name, unless K and V are exchanged
    pages   in words, where the pages are not those of the table
    note    in words, what else is unlike those rows; without a row, what is there instead
    lacks   in words, what is found nowhere, or in two places
    start   in words, where it begins, where only that is unlike the row of K or V
    is_seen   whether any of its elements decodes
    """

    part: str
    rows: tuple[str, ...] = ()
    of: str = ""
    pages: str = ""
    note: str = ""
    lacks: str = ""
    start: str = ""
    is_seen: bool = True

    def is_right(self, row: str) -> bool:
        """Whether it lies as in a row, and nothing is to be said."""
        return self.is_seen and not self.is_elsewhere(row) and not self.lacks

    def is_elsewhere(self, row: str) -> bool:
        """Whether some of what decodes lies where a row does not have it."""
        as_in_row = row in self.rows and self.of == self.part and not self.pages and not self.note
        return self.is_seen and not as_in_row


def placements(observed: Observed) -> dict[str, Placement]:
    """Part -> where it lies, in the order of the row; parts that could not be looked for are left out."""
    x = observed.inputs
    rows = candidates(x.row, x.sizes, x.case.dtype)
    seen = {part.name: observed.parts[part.name] for part in x.row.parts if part.name in observed.parts}
    return {name: _Search(observed, one, rows).placement() for name, one in seen.items()}


class _Search:
    """One part in one Case."""

    def __init__(self, observed: Observed, seen: Seen, rows: list[Layout]) -> None:
        self.observed, self.seen, self.rows, self.units = observed, seen, rows, observed.units
        self.x, self.part = observed.inputs, seen.part
        self.known = _known(seen.unit)
        self.unit = seen.unit[self.known]
        self.at = {axis: np.broadcast_to(i, seen.unit.shape)[self.known] for axis, i in seen.at.items()}

    def placement(self) -> Placement:
        """The first reading that holds."""
        if not self.known.any():
            return Placement(self.part.name, note=self._nothing(), is_seen=False)
        for reading in (self._as_a_row, self._on_other_pages, self._with_axes_mapped, self._in_part, self._by_strides):
            found = reading()
            if found is not None:
                return replace(found, lacks=self._missing())
        return Placement(self.part.name, note=self._nowhere(), lacks=self._missing())

    @cached_property
    def _sources(self) -> tuple[tuple[Source, ...], ...]:
        """The part itself as each candidate has it; what each has of the other side."""
        own = tuple(Source(self.units, row, row.part(self.part.name)) for row in self.rows)
        other = "vk"[self.part.side] + self.part.name[1:]
        alike = [part for part in self.x.row.parts if part.name == other and part.axes == self.part.axes]
        if not alike or self.units.each(alike[0]) != self.units.each(self.part) or self.x.row.pairs_pages:
            return (own,)
        return own, tuple(Source(self.units, row, row.part(other)) for row in self.rows)

    def _of_part(self) -> dict[str, Array]:
        return {axis: index for axis, index in self.at.items() if axis in self.part.axes}

    def _own(self, axis: str) -> Array:
        """What the tables and the row say: the first of the elements that share a place."""
        step = self.x.row.step(self.part, axis, self.units.sizes, self.units.dtype)
        return np.asarray(self.at[axis] // step * step)

    # --- readings

    def _as_a_row(self) -> Placement | None:
        own = self._of_part()
        few = {axis: index[:GLANCE] for axis, index in own.items()}
        for sources in self._sources:
            near = [s for s in sources if np.array_equal(self.units.places(s.row, s.part, few), self.unit[:GLANCE])]
            fits = [s for s in near if np.array_equal(self.units.places(s.row, s.part, own), self.unit)]
            if fits:
                return self._of(fits)
        return None

    def _of(self, fits: list[Source], pages: str = "", note: str = "") -> Placement:
        """The rows of sources that fit."""
        return Placement(self.part.name, tuple(source.row.name for source in fits), fits[0].part.name, pages, note)

    def _on_other_pages(self) -> Placement | None:
        for sources in self._sources:
            found = [(source, source.coordinates(self.unit)) for source in sources]
            fits = [(source, at) for source, at in found if at is not None and self._is_inside(at)]
            if fits:
                pages = fits[0][1]["page"]
                alike = [source for source, at in fits if np.array_equal(at["page"], pages)]
                return self._of(alike, self._of_pages(pages))
        return None

    def _is_inside(self, found: Mapping[str, Array]) -> bool:
        """Whether every coordinate but the page is the right one."""
        return all(np.array_equal(index, self._own(axis)) for axis, index in found.items() if axis != "page")

    def _of_pages(self, pages: Array) -> str:
        wrong = wrong_tables.readings(self.x, self.part.side, self.at["seq"], self.at["column"])
        by = "the slot" if self.observed.op == "append" else "the table"
        return wrong_tables.told(pages, self.at["page"], wrong, self.x.sizes["page"], by)

    def _with_axes_mapped(self) -> Placement | None:
        """Every coordinate depends on its own index alone, in another way than in the row."""
        best: tuple[int, Source, dict[str, str]] | None = None
        for source in chain(*self._sources):
            found = source.coordinates(self.unit)
            told = None if found is None else self._maps(found)
            if told is not None and (best is None or len(told) < best[0]):
                best = len(told), source, told
        return None if best is None else self._of([best[1]], note=" and ".join(best[2].values()))

    def _maps(self, found: Mapping[str, Array]) -> dict[str, str] | None:
        """Axis -> in words what stands for its indices, where that is not the same; None where it depends on more."""
        told = {}
        for axis, image in found.items():
            name = "q_head" if axis == "head" and "q_head" in self.at else axis
            index, first, inverse = np.unique(self.at[name], return_index=True, return_inverse=True)
            if not np.array_equal(image[first][inverse], image):
                return None
            if not np.array_equal(image[first], self._own(axis)[first]):
                told[axis] = _map(name, axis, index, image[first], self.x.sizes.get("head", 1))
        return told

    def _in_part(self) -> Placement | None:
        """More than half of the elements lie as in a row."""
        own = self._of_part()
        most: tuple[int, Source, Array] | None = None
        for source in chain(*self._sources):
            bad = self.units.places(source.row, source.part, own) != self.unit
            if 2 * bad.sum() < bad.size and (most is None or bad.sum() < most[0]):
                most = int(bad.sum()), source, bad
        if most is None:
            return None
        first = f"{self._named(most[2])} lies {self._there(int(self.unit[most[2]][0]))}"
        return self._of([most[1]], note=f"but for {self._which(most[2], self.at)}: {first}")

    def _by_strides(self) -> Placement | None:
        """A sum of strides that no row has."""
        for head in [name for name in ("head", "q_head") if name in self.at] or ["head"]:
            names = [head if axis == "head" else axis for axis in self.part.axes]
            own = {name: self.at[name] for name in names if name in self.at}
            found = strides(self.unit, own)
            if found is not None and all(len(added) == 1 for added in found.terms().values()):
                return self._of_strides(found, own)
        return None

    def _of_strides(self, found: Strides, own: Mapping[str, Array]) -> Placement:
        """Strides in words, beside those of the claimed row."""
        places = self.units.places(self.x.row, self.part, self._of_part())
        row, (size, measure) = strides(np.broadcast_to(places, self.unit.shape), own), self._measure()
        said, start = f"strides {_terms(found, size)}", ""
        if row is not None:
            same = row.terms() == found.terms()
            said = (
                f"the strides of {self.x.row.name}"
                if same
                else f"{said} where {self.x.row.name} has {_terms(row, size)}"
            )
            if row.base != found.base:
                start = f"from {_ratio(found.base, size)} on where it begins at {_ratio(row.base, size)}"
        return Placement(self.part.name, note=f"{said}, in {measure}", start=start)

    def _measure(self) -> tuple[int, str]:
        """Units in an element, and what such an element is called."""
        dtype = self.x.row.dtype_of(self.part, self.x.case.dtype)
        return max(1, width(dtype) // self.units.bits), f"elements of {dtype}"

    # --- words

    def _nothing(self) -> str:
        if self.observed.op == "append":
            return "nothing is written anywhere in the cache as it was given"
        return "nothing decodes to an address: values are computed, not moved, or come from outside the cache"

    def _nowhere(self) -> str:
        first = self.units.places(self.x.row, self.part, self._of_part()) != self.unit
        linear = linear_axes(self.unit, {axis: self.at[axis] for axis in self.part.axes if axis in self.at})
        size, measure = self._measure()
        told = ", ".join(f"{axis} {_ratio(n, size)}" for axis, n in linear.items())
        also = f"; along single axes {told}, in {measure}" if told else ""
        return f"no strides fit: {self._named(first)} lies {self._there(int(self.unit[first][0]))}{also}"

    def _missing(self) -> str:
        """In words, elements that are nowhere, or in two places."""
        told = []
        shape = self.seen.unit.shape
        at = {axis: np.broadcast_to(index, shape).ravel() for axis, index in self.seen.at.items()}
        if not self.known.all():
            what = "not written" if self.observed.op == "append" else "not to be decoded"
            told.append(f"{what}: {self._which(~self.known.ravel(), at)}")
        if self.seen.again is not None and self.seen.again.any():
            told.append(f"written to a second place too: {self._which(self.seen.again.ravel(), at)}")
        return "; ".join(told)

    def _which(self, bad: Array, at: Mapping[str, Array]) -> str:
        """Bad elements by the indices that tell them from all others, or their number."""
        if bad.all():
            return "all of them"
        axes = [
            axis for axis in ("page", "slot", "q_head" if "q_head" in at else "head", *self.part.axes) if axis in at
        ]
        inside = {axis: np.isin(at[axis], at[axis][bad]) for axis in dict.fromkeys(axes)}
        if not np.array_equal(np.all(list(inside.values()), axis=0), bad):
            return f"{int(bad.sum())} of {bad.size} elements"
        for axis in [*inside]:  # an axis that says nothing is not named
            others = [mask for name, mask in inside.items() if name != axis]
            if others and np.array_equal(np.all(others, axis=0), bad):
                del inside[axis]
        return ", ".join(f"{axis} {_listed(np.unique(at[axis][bad]))}" for axis in inside)

    def _named(self, bad: Array) -> str:
        """The first bad element."""
        at = {axis: int(self.at[axis][bad][0]) for axis in (*self.part.axes, "q_head") if axis in self.at}
        return ", ".join(f"{axis} {i}" for axis, i in at.items())

    def _there(self, unit: int) -> str:
        """What the claimed row has in a unit."""
        for part in self.x.row.parts:
            found = Source(self.units, self.x.row, part).coordinates(np.array([unit]))
            if found is not None:
                at = ", ".join(f"{axis} {int(i[0])}" for axis, i in found.items())
                return f"where {self.x.row.name} has {part.name}: {at}"
        return f"in bit {unit * self.units.bits} of the buffers, where {self.x.row.name} has nothing, or no beginning"


def _known(unit: Array) -> Array:
    """Elements that decode together with half of those beside them: one alone may do so by chance."""
    decodes = unit != NONE
    return np.asarray(decodes & (2 * decodes.sum(-1, keepdims=True) >= unit.shape[-1]))


def _terms(found: Strides, size: int) -> str:
    """Strides in elements of so many units."""
    terms = found.terms().items()
    return ", ".join(f"{axis} {', '.join(_ratio(one, size) for one in added)}" for axis, added in terms)


def _map(name: str, axis: str, index: Array, image: Array, num_heads: int) -> str:
    if name == "q_head":
        rule = ": h % num_kv_heads" if np.array_equal(image, index % num_heads) else ""
        return f"with q heads {_listed(index)} on kv heads {_listed(image)}{rule}"
    return f"with {axis} {_listed(image)} for {axis} {_listed(index)}"


def _listed(values: Array) -> str:
    shown = ", ".join(str(int(v)) for v in values[:SHOWN])
    return shown + (", ..." if len(values) > SHOWN else "")


def _ratio(count: int, size: int) -> str:
    return str(count // size) if count % size == 0 else f"{count}/{size}"
