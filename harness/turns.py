"""What one of many cells of a law tries: of its pinned cases and of what is drawn a part, each cell another one.

Kernels are generic in layout and dtype, so that what one cell has shown, others need not show again in a short run. No
cell is without a case, and over all cells of a law nothing is left out: each pinned case is tried in `whole_cells` of
them, and as many cases are drawn, of each family no fewer than a law owes, as so many cells would have drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from kvconform.harness.efforts import Effort
from kvconform.specs import data

_T = TypeVar("_T")


@cache
def _shuffled(count: int) -> tuple[int, ...]:
    """So many places in another order, always the same: cells that stand a dtype apart, or a layout, share no parts."""
    return tuple(int(i) for i in np.argsort(data.hashes(count, "turns", np.arange(count)), kind="stable"))


@dataclass(frozen=True)
class Turn:
    """One cell's.

    place, of   which of how many cells of its law it is
    effort      how hard the run tries
    static      whether each of its calls is slow
    """

    place: int
    of: int
    effort: Effort
    static: bool = False

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
        """Its part of the pinned cases; of those of all, each next one begins where this ends."""
        return self._part(cases, self._share(len(cases)))

    def families(self, families: tuple[str, ...]) -> Mapping[str, int]:
        """Family -> cases of it that this cell owes; none where it draws as chance will.

        Where all cells try all, a family is owed only if they are too few for chance to bring it. Cells of shared
        shapes are exempt then: each of their calls is slow.
        """
        least = self.effort.each_family * len(families)
        if not self.whole:
            count = max(self._share(self.examples), 0 if self.static else -(-least // self.of))
            return Counter(self._part(families, count))
        enough = self.of * self.examples >= least
        each = 1 + -(-self.effort.each_family // self.of)  # the first is the simplest
        return {} if self.static or enough else dict.fromkeys(families, each)

    def _share(self, whole: int) -> int:
        """Of so many cases, how many this cell tries."""
        if self.effort.whole_cells is None:
            return whole
        return min(whole, max(1, -(-whole * self.effort.whole_cells // self.of)))

    def _part(self, some: tuple[_T, ...], count: int) -> tuple[_T, ...]:
        return tuple(some[(self._rank * count + i) % len(some)] for i in range(count))

    @property
    def _rank(self) -> int:
        """Its place where those that begin with pinned cases come before those that begin with drawn ones: if time is
        up in all of them, each half goes round by itself."""
        half, second = divmod(self.place, 2)
        first = -(-self.of // 2)
        return _shuffled(self.of - first if second else first)[half] + second * first
