"""Several processes for one implementation: which cells are whose, and how a child learns its share.

A share is made of whole layouts and widths of a dtype: cells of these have the same shapes, so that what is compiled is
compiled once, and a counterexample found in one is tried on the next. Which cell fails does not depend on shares.

The first process writes the plan. A second one imports meanwhile what the adapter requires, and nothing of the adapter
itself, which may take a device for itself as it is imported: only the first one can tell that it does not.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from kvconform.harness.booking import UNTRIED, Booked
from kvconform.specs.dtypes import width

ENV_SHARE = "KVCONFORM_SHARE"
"""Number of the file that a child reads its share from, or the share; unset: everything is its own."""

ENV_EARLY = "KVCONFORM_EARLY"
"""Modules that a child imports, in one word with commas, before it reads its share and does anything else."""

LEAST_CELLS = 24
"""Cells for which one more process is worth its start."""

START_CELLS = 12
"""Cells, of those that try all cases of their laws, that the first process is done with while another one imports the
adapter and plans."""

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

    The first one is at work while the others get ready.
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


def is_wanted() -> bool:
    """Whether this child has something to do; one that is started early waits, with its imports made, to be told.

    Raises what an import raises: the child ends, and another one leaves that to the adapter.
    """
    modules = os.environ.pop(ENV_EARLY, None)
    if modules is None:
        return True
    for name in filter(None, modules.split(",")):
        importlib.import_module(name)
    os.environ[ENV_SHARE] = _read(os.environ[ENV_SHARE])
    return bool(os.environ[ENV_SHARE])


def _read(number: str) -> str:
    with os.fdopen(int(number), "r", encoding="ascii") as said:
        return said.readline().strip()


def others(cells: Iterable[Booked], whole_cells: int | None) -> frozenset[str]:
    """Keys of the cells that other processes try, as whoever started this one says; waits until that is said.

    whole_cells   as in `deal`
    """
    said = os.environ.pop(ENV_SHARE, "")
    if not said:
        return frozenset()
    share, num = map(int, (said if "/" in said else _read(said)).split("/"))
    return frozenset(key for key, owner in deal(cells, num, whole_cells).items() if owner != share)
