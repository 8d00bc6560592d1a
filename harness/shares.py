"""Several processes for one implementation: which cells are whose, and how a child learns its share.

A share is made of whole layouts and widths of a dtype: cells of these have the same shapes, so that what is compiled is
compiled once, and a counterexample found in one is tried on the next. Which cell fails does not depend on shares.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from kvconform.harness.booking import UNTRIED, Booked
from kvconform.specs.dtypes import width

ENV_SHARE = "KVCONFORM_SHARE"
"""Number of the file that a child reads its share from once it has written its plan; unset: everything is its own."""

LEAST_CELLS = 24
"""Cells for which one more process is worth its start."""

START_CELLS = 12
"""Cells, of those that try all cases of their laws, that one process is done with while another one starts."""

Unit = tuple[str, int]


def _unit(cell: Booked) -> Unit:
    return cell.layout, width(cell.dtype)


def _tried(cells: Iterable[Booked]) -> list[Booked]:
    return [cell for cell in cells if cell.outcome not in UNTRIED]


def num_shares(cells: Iterable[Booked], attested: Mapping[str, Any], most: int) -> int:
    """Processes that a plan is worth, `most` at the most.

    Only of an implementation that attests a CPU as its device: there are others that one process takes for itself.
    """
    if "cpu" not in str(attested.get("device", "")).lower():
        return 1
    tried = _tried(cells)
    return max(1, min(most, len(set(map(_unit, tried))), len(tried) // LEAST_CELLS))


def deal(cells: Iterable[Booked], num: int, whole_cells: int | None) -> dict[str, int]:
    """Key of each cell that is to be tried -> its share: the largest unit first, each to whoever has least.

    whole_cells   of a law with more cells than these, each tries a part of as much (`Effort.whole_cells`)

    The first one is at work while the others start.
    """
    tried = _tried(cells)
    every = Counter(cell.law for cell in tried)
    sizes: dict[Unit, Fraction] = defaultdict(Fraction)
    for cell in tried:
        sizes[_unit(cell)] += Fraction(min(every[cell.law], whole_cells or every[cell.law]), every[cell.law])
    share_of: dict[Unit, int] = {}
    start = min(Fraction(START_CELLS), sum(sizes.values(), Fraction()) / (2 * num))  # none is left without any
    load = [Fraction(0), *[start] * (num - 1)]
    for unit in sorted(sizes, key=sizes.__getitem__, reverse=True):
        share_of[unit] = load.index(min(load))
        load[share_of[unit]] += sizes[unit]
    return {cell.key: share_of[_unit(cell)] for cell in tried}


def told(share: int, num: int) -> bytes:
    """What a child is told."""
    return f"{share}/{num}\n".encode()


def others(cells: Iterable[Booked], whole_cells: int | None) -> frozenset[str]:
    """Keys of the cells that other processes try, as whoever started this one says; waits until that is said.

    whole_cells   as in `deal`
    """
    number = os.environ.pop(ENV_SHARE, "")
    if not number:
        return frozenset()
    with os.fdopen(int(number), "rb") as said:
        share, num = map(int, said.readline().split(b"/"))
    return frozenset(key for key, owner in deal(cells, num, whole_cells).items() if owner != share)
