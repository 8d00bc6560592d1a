"""Several processes for one implementation: which cells are whose, and how a child learns its share.

A share is made of whole layouts and widths of a dtype: cells of these have the same shapes, so that what is compiled is
compiled once, and a counterexample found in one is tried on the next. Which cell fails does not depend on shares.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from kvconform.harness.booking import NOT_OFFERED, Booked
from kvconform.specs.dtypes import width

ENV_SHARE = "KVCONFORM_SHARE"
"""Number of the file that a child reads its share from once it has written its plan; unset: everything is its own."""

LEAST_CELLS = 24
"""Cells for which one more process is worth its start."""

Unit = tuple[str, int]


def _unit(cell: Booked) -> Unit:
    return cell.layout, width(cell.dtype)


def _sizes(cells: Iterable[Booked]) -> Counter[Unit]:
    return Counter(_unit(cell) for cell in cells if cell.outcome != NOT_OFFERED)


def num_shares(cells: Iterable[Booked], attested: Mapping[str, Any], most: int) -> int:
    """Processes that a plan is worth, `most` at the most.

    Only of an implementation that attests a CPU as its device: there are others that one process takes for itself.
    """
    if "cpu" not in str(attested.get("device", "")).lower():
        return 1
    sizes = _sizes(cells)
    return max(1, min(most, len(sizes), sizes.total() // LEAST_CELLS))


def deal(cells: Iterable[Booked], num: int) -> dict[str, int]:
    """Key of each cell that is to be tried -> its share: the largest unit first, each to whoever has least.

    The first one is at work while the others start.
    """
    cells = [cell for cell in cells if cell.outcome != NOT_OFFERED]
    share_of: dict[Unit, int] = {}
    load = [0, *[LEAST_CELLS] * (num - 1)]
    for unit, size in _sizes(cells).most_common():
        share_of[unit] = load.index(min(load))
        load[share_of[unit]] += size
    return {cell.key: share_of[_unit(cell)] for cell in cells}


def told(share: int, num: int) -> bytes:
    """What a child is told."""
    return f"{share}/{num}\n".encode()


def others(cells: Iterable[Booked]) -> frozenset[str]:
    """Keys of the cells that other processes try, as whoever started this one says; waits until that is said."""
    number = os.environ.pop(ENV_SHARE, "")
    if not number:
        return frozenset()
    with os.fdopen(int(number), "rb") as said:
        share, num = map(int, said.readline().split(b"/"))
    return frozenset(key for key, owner in deal(cells, num).items() if owner != share)
