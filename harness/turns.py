"""What a short run tries of a law with many cells: in which of them, and in each of these another part of the cases.

Kernels are generic in layout and dtype, so that what one cell has shown, others need not show again in a short run. No
pair is left out: a law meets each layout and each dtype, and each layout meets each dtype in the laws that are tried in
every cell (`Law.every_cell`); another seed takes other cells. No cell that is tried is without a case, and over all of
them nothing is left out: each pinned case that they all have is tried in `pinned_cells` of them, and as many cases are
drawn, of each family no fewer than a law owes, as `whole_cells` would have drawn.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from kvconform.harness.efforts import Effort
from kvconform.specs import data
from kvconform.specs.cells import Cell

_T = TypeVar("_T")


@cache
def _shuffled(count: int) -> tuple[int, ...]:
    """So many places in another order, always the same: cells that stand a dtype apart, or a layout, share no parts."""
    return tuple(int(i) for i in np.argsort(data.hashes(count, "turns", np.arange(count)), kind="stable"))


def met(cells: Sequence[Cell], least: int, by: str, telling: Callable[[Cell], bool] = lambda cell: True) -> set[int]:
    """Places of some cells among which each layout is and each dtype, `least` of them if there are as many.

    by        what it depends on which of the dtypes of a layout: the seed of a run, and the law
    telling   one of which a layout is met in, if it has one
    """
    places: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        places.setdefault(cell.layout, []).append(place)
    order = np.argsort(data.hashes(zlib.crc32(by.encode()), "met", np.arange(len(cells))), kind="stable")
    rank = {int(place): n for n, place in enumerate(order)}
    found: list[int] = []
    tried: Counter[str] = Counter()

    def take(some: Iterable[int]) -> None:
        found.append(min(some, key=lambda place: (tried[cells[place].dtype], rank[place])))
        tried[cells[found[-1]].dtype] += 1

    for some in sorted(places.values(), key=len):  # who has a choice evens out what those without one leave
        take([place for place in some if telling(cells[place])] or some)
    while left := set(rank) - set(found):
        if len(found) >= least and all(tried[cells[place].dtype] for place in left):
            break
        take(left)
    return set(found)


@dataclass(frozen=True)
class Turn:
    """One cell's.

    place, of   which of how many cells of its law it is
    effort      how hard the run tries
    static      whether each of its calls is slow
    alike       whether each cell tries as many as any other: what no other law tries there, one alone may miss
    """

    place: int
    of: int
    effort: Effort
    static: bool = False
    alike: bool = False

    @property
    def examples(self) -> int:
        """Cases that are drawn where a cell tries all."""
        return self.effort.static_examples if self.static else self.effort.examples

    @property
    def whole(self) -> bool:
        """Whether it tries all."""
        return self.effort.whole_cells is None or self.of <= self.effort.whole_cells

    @property
    def alone(self) -> Turn:
        """The same where cells take no turns."""
        return replace(self, effort=replace(self.effort, whole_cells=None))

    @property
    def shortest(self) -> Turn:
        """The same where time is up: a case of either kind, of which the first alone may be tried."""
        return replace(self, effort=replace(self.effort, whole_cells=0))

    @property
    def draws_first(self) -> bool:
        """Whether what is drawn comes before what is pinned: in every other cell, since time may be up between."""
        return not self.whole and bool(self.place % 2)

    @property
    def begins_with_the_simplest(self) -> bool:
        """Whether the first case that is not pinned is the simplest: it shows little, and costs least.

        Where cells take turns one of them tries it, and every other one of those whose calls are slow.
        """
        return self.whole or not (self.place % 2 if self.static else self.place)

    def planned(self, pinned: tuple[_T, ...], families: tuple[str, ...]) -> int:
        """Cases that it tries, pinned ones and drawn ones; no families: none is drawn."""
        drawn = (sum(self.families(families).values()) or self.examples) if families else 0
        return len(self.pinned(pinned)) + drawn

    def pinned(self, cases: tuple[_T, ...]) -> tuple[_T, ...]:
        """Its part of the pinned cases, which are shuffled, since those that show the same stand side by side."""
        mixed = cases if self.whole else tuple(cases[place] for place in _shuffled(len(cases)))
        return self._part(mixed, self._tries(len(cases), self.effort.pinned_cells))

    def families(self, families: tuple[str, ...]) -> Mapping[str, int]:
        """Family -> cases of it that this cell owes; none where it draws as chance will.

        Where all cells try all, a family is owed only if they are too few for chance to bring it. Cells of shared
        shapes are exempt then: each of their calls is slow.
        """
        least = self.effort.each_family * len(families)
        if not self.whole:
            owed = max(self._tries(self.examples), 0 if self.static else self._rounded(least))
            return Counter(self._part(families, owed))
        enough = self.of * self.examples >= least
        each = 1 + -(-self.effort.each_family // self.of)  # the first is the simplest
        return {} if self.static or enough else dict.fromkeys(families, each)

    def _tries(self, cases: int, most: int | None = None) -> int:
        """Of so many cases, each in `most` cells, how many tries all cells have together: one each at least."""
        whole = min((n for n in (most, self.effort.whole_cells) if n is not None and not self.whole), default=self.of)
        return self._rounded(max(self.of, whole * cases)) if cases else 0

    def _rounded(self, tries: int) -> int:
        return -(-tries // self.of) * self.of if self.alike else tries

    def _part(self, some: tuple[_T, ...], tries: int) -> tuple[_T, ...]:
        """Its part of so many tries, which go round and round: each next one begins where this ends."""
        begin, end = (rank * tries // self.of for rank in (self._rank, self._rank + 1))
        return tuple(some[i % len(some)] for i in range(begin, end))

    @property
    def _rank(self) -> int:
        """Its place where those that begin with pinned cases come before those that begin with drawn ones: if time is
        up in all of them, each half goes round by itself."""
        half, second = divmod(self.place, 2)
        first = -(-self.of // 2)
        return _shuffled(self.of - first if second else first)[half] + second * first
