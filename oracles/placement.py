"""What the places of one part's elements mean: a row, a row on other pages, other heads, strides, or none of these.

Readings are tried in that order, and a reading holds for every element that decodes or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from kvconform.oracles import candidates, wrong_tables
from kvconform.oracles.observed import Observed, Seen
from kvconform.oracles.probes import NONE, Units
from kvconform.oracles.strides_seen import Strides, linear_axes, strides
from kvconform.specs.data import Array
from kvconform.specs.dtypes import width
from kvconform.specs.layouts import Layout, Part

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
    is_seen   whether any of its elements decodes
    """

    part: str
    rows: tuple[str, ...] = ()
    of: str = ""
    pages: str = ""
    note: str = ""
    is_seen: bool = True

    def is_right(self, row: str) -> bool:
        """Whether it lies as in a row, and nothing is to be said."""
        return row in self.rows and self.of == self.part and not self.pages and not self.note


def placements(observed: Observed) -> dict[str, Placement]:
    """Part -> where it lies, in the order of the row; parts that could not be looked for are left out."""
    x = observed.inputs
    rows = candidates.candidates(x.row, x.sizes, x.case.dtype)
    return {name: _Search(observed, seen, rows).placement() for name, seen in observed.parts.items()}


@dataclass(frozen=True)
class _Source:
    """A part as a row has it: what elements may have been taken for."""

    units: Units
    row: Layout
    part: Part

    @cached_property
    def _places(self) -> tuple[Array, Array, tuple[int, ...]]:
        places = candidates.every_place(self.units, self.row, self.part)
        order = np.argsort(places, axis=None)
        return places.ravel()[order], order, places.shape

    def coordinates(self, unit: Array) -> dict[str, Array] | None:
        """Axis -> the coordinate of what the row has in each unit [n]; None where it has nothing in some."""
        places, order, shape = self._places
        found = np.searchsorted(places, unit).clip(max=len(places) - 1)
        if (places[found] != unit).any():
            return None
        index = np.unravel_index(order[found], shape)
        axes = [axis for axis in self.part.axes if axis in ("page", "slot", *self.row.token_axes(self.part))]
        steps = [self.row.step(self.part, axis, self.units.sizes, self.units.dtype) for axis in axes]
        return {axis: i * step for axis, i, step in zip(axes, index, steps, strict=True)}


class _Search:
    """One part in one Case."""

    def __init__(self, observed: Observed, seen: Seen, rows: list[Layout]) -> None:
        self.observed, self.seen, self.rows, self.units = observed, seen, rows, observed.units
        self.x, self.part = observed.inputs, seen.part
        self.known = seen.unit != NONE
        self.unit = seen.unit[self.known]
        self.at = {axis: np.broadcast_to(i, seen.unit.shape)[self.known] for axis, i in seen.at.items()}

    def placement(self) -> Placement:
        """The first reading that holds."""
        if not self.known.any():
            return Placement(self.part.name, note=self._nothing(), is_seen=False)
        for reading in (self._as_a_row, self._on_other_pages, self._with_axes_mapped, self._in_part, self._by_strides):
            found = reading()
            if found is not None:
                return replace(found, note="; ".join(filter(None, [found.note, self._missing()])))
        return Placement(self.part.name, note="; ".join(filter(None, [self._nowhere(), self._missing()])))

    def _sources(self) -> Iterator[_Source]:
        """The part itself as each candidate has it, then what each has of the other side."""
        for row in self.rows:
            yield _Source(self.units, row, row.part(self.part.name))
        other = "vk"[self.part.side] + self.part.name[1:]
        alike = [part for part in self.x.row.parts if part.name == other and part.axes == self.part.axes]
        if alike and self.units.each(alike[0]) == self.units.each(self.part) and not self.x.row.pairs_pages:
            for row in self.rows:
                yield _Source(self.units, row, row.part(other))

    def _own(self, axis: str) -> Array:
        """What the tables and the row say: the first of the elements that share a place."""
        step = self.x.row.step(self.part, axis, self.units.sizes, self.units.dtype)
        return np.asarray(self.at[axis] // step * step)

    # --- readings

    def _as_a_row(self) -> Placement | None:
        own = {axis: index for axis, index in self.at.items() if axis in self.part.axes}
        fits = [s for s in self._sources() if np.array_equal(self.units.places(s.row, s.part, own), self.unit)]
        return self._of(fits)

    def _of(self, fits: list[_Source], pages: str = "", note: str = "") -> Placement | None:
        """The rows of the sources that fit; those of the part itself come first."""
        if not fits:
            return None
        rows = tuple(source.row.name for source in fits if source.part.name == fits[0].part.name)
        return Placement(self.part.name, rows, fits[0].part.name, pages, note)

    def _on_other_pages(self) -> Placement | None:
        fits, pages = [], None
        for source in self._sources():
            found = source.coordinates(self.unit)
            if found is not None and all(np.array_equal(found[a], self._own(a)) for a in found if a != "page"):
                if pages is None:
                    pages = found["page"]
                if np.array_equal(pages, found["page"]):
                    fits.append(source)
        if pages is None:
            return None
        wrong = wrong_tables.readings(self.x, self.part.side, self.at["seq"], self.at["column"])
        if self.observed.op == "append":  # which takes no table, but slots
            wrong = {name: page for name, page in wrong.items() if name.startswith("those of") and self.x.row.pairs_pages}
        given = "the slot" if self.observed.op == "append" else "the table"
        return self._of(fits, wrong_tables.told(pages, self.at["page"], wrong, given))

    def _with_axes_mapped(self) -> Placement | None:
        """Every coordinate depends on its own index alone, in another way than in the row."""
        best: tuple[int, _Source, dict[str, str]] | None = None
        for source in self._sources():
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
        own = {axis: index for axis, index in self.at.items() if axis in self.part.axes}
        most: tuple[int, _Source, Array] | None = None
        for source in self._sources():
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
            if found is not None:
                return Placement(self.part.name, note=self._of_strides(found, own))
        return None

    def _of_strides(self, found: Strides, own: Mapping[str, Array]) -> str:
        """Strides in words, beside those of the claimed row."""
        places = self.units.places(self.x.row, self.part, {a: i for a, i in self.at.items() if a in self.part.axes})
        row = strides(np.broadcast_to(places, self.unit.shape), own)
        said = self._told(found.base, found.terms())
        known = f"; {self.x.row.name} has {self._told(row.base, row.terms())}" if row else ""
        return f"{said}{known}, in {self._measure()[1]}"

    def _told(self, base: int, terms: Mapping[str, str]) -> str:
        size, _ = self._measure()
        told = [
            f"{axis} {', '.join(_ratio(int(n), size) for n in value.split(', '))}" for axis, value in terms.items()
        ]
        return ", ".join([*told, f"from {_ratio(base, size)} on"] if base else told)

    def _measure(self) -> tuple[int, str]:
        """Units in an element, and what such an element is called."""
        dtype = self.x.row.dtype_of(self.part, self.x.case.dtype)
        return max(1, width(dtype) // self.units.bits), f"elements of {dtype}"

    # --- words

    def _nothing(self) -> str:
        if self.observed.op == "append":
            return "nothing of it is written anywhere in the cache as it was given"
        return "nothing decodes to an address: its values are computed, not moved, or come from outside the cache"

    def _nowhere(self) -> str:
        bad = self.units.places(self.x.row, self.part, {a: i for a, i in self.at.items() if a in self.part.axes})
        first = bad != self.unit
        linear = linear_axes(self.unit, {axis: self.at[axis] for axis in self.part.axes if axis in self.at})
        size, measure = self._measure()
        told = ", ".join(f"{axis} {_ratio(n, size)}" for axis, n in linear.items())
        also = f"; strides are found along some axes only: {told}, in {measure}" if told else ""
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
        """Bad elements by the one axis that tells them from all others, or their number."""
        for axis in ("q_head", *self.part.axes, "seq", "column"):
            if axis in at:
                index = np.unique(at[axis][bad])
                if np.array_equal(np.isin(at[axis], index), bad) and not bad.all():
                    return f"{axis} {_listed(index)}"
        return "all of them" if bad.all() else f"{int(bad.sum())} of {bad.size} elements"

    def _named(self, bad: Array) -> str:
        """The first bad element."""
        at = {axis: int(self.at[axis][bad][0]) for axis in (*self.part.axes, "q_head") if axis in self.at}
        return ", ".join(f"{axis} {i}" for axis, i in at.items())

    def _there(self, unit: int) -> str:
        """What the claimed row has in a unit."""
        for part in self.x.row.parts:
            found = _Source(self.units, self.x.row, part).coordinates(np.array([unit]))
            if found is not None:
                at = ", ".join(f"{axis} {int(i[0])}" for axis, i in found.items())
                return f"where {self.x.row.name} has {part.name}: {at}"
        return f"in bit {unit * self.units.bits} of the buffers, where {self.x.row.name} has nothing, or no beginning"


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
