"""The strides that addresses have, whatever made them: address = base + what each index adds.

What an index adds is told by neighbours along its axis, and every address is checked against the sum. An axis then has
one stride, or two where it is cut (`dim // 8` and `dim % 8`), or is a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvconform.specs.data import Array


@dataclass(frozen=True)
class Strides:
    """Addresses as a sum.

    base    of index 0 on every axis, or of the least one where an axis is a list
    added   axis -> {index: what it adds}
    """

    base: int
    added: Mapping[str, Mapping[int, int]]

    def terms(self) -> dict[str, list[int]]:
        """What each axis adds: `head`: 64; `dim // 8`: 24, `dim % 8`: 1; `slot // 32`: 2 where 32 slots are alike."""
        found: dict[str, list[int]] = {}
        for axis, table in self.added.items():
            if len(table) == 1:
                continue
            apart = math.gcd(*table)
            name = f"{axis} // {apart}" if apart > 1 else axis
            steps = {index // apart: more for index, more in table.items()}
            stride, cut = _stride(steps), _cut(steps)
            if stride is not None:
                found[name] = [stride]
            elif cut is not None:
                found |= {f"{name} // {cut[0]}": [cut[1]], f"{name} % {cut[0]}": [cut[2]]}
            else:
                found[name] = list(table.values())
        return found


def strides(address: Array, at: Mapping[str, Array]) -> Strides | None:
    """Find the strides; None where the addresses are no such sum, or too few to tell.

    address   [n];  at: axis -> [n] indices
    """
    added, total = {}, np.zeros(len(address), np.int64)
    for axis, index in at.items():
        values = np.unique(index)
        table = _table(values.tolist(), _steps(address, at, axis))
        if table is None:
            return None
        stride = _stride(table)
        first = int(values[0]) * (stride or 0)
        added[axis] = {value: more + first for value, more in table.items()}
        total += np.array([added[axis][value] for value in values.tolist()])[np.searchsorted(values, index)]
    base = np.unique(address - total)
    return Strides(int(base[0]), added) if len(base) == 1 else None


def linear_axes(address: Array, at: Mapping[str, Array]) -> dict[str, int]:
    """Axis -> its stride, of the axes along which every neighbour is equally far, all other indices alike."""
    found = {}
    for axis in at:
        steps = _steps(address, at, axis)
        width, far = steps[:, 1] - steps[:, 0], steps[:, 2]
        if len(steps) and (far * width[0] == far[0] * width).all() and not far[0] % width[0]:
            found[axis] = int(far[0] // width[0])
    return found


def _steps(address: Array, at: Mapping[str, Array], axis: str) -> Array:
    """[n, 3] an index, the next one, how much further: of neighbours along an axis, all other indices alike."""
    others = [index for name, index in at.items() if name != axis]
    order = np.lexsort((at[axis], *others))
    same = np.all([index[order][1:] == index[order][:-1] for index in others], axis=0) & np.ones(len(order) - 1, bool)
    index, more = at[axis][order], np.diff(address[order])[same]
    low, high = index[:-1][same], index[1:][same]
    spans = [int(values.max(initial=0)) + 1 for values in (low, high)]
    least = int(more.min(initial=0))
    keys = np.unique(((more - least) * spans[0] + low) * spans[1] + high)  # one number each, which sorts fast
    rest, highs = np.divmod(keys, spans[1])
    shifted, lows = np.divmod(rest, spans[0])
    return np.stack([lows, highs, shifted + least], axis=1)[lows < highs]


def _table(values: list[int], steps: Array) -> dict[int, int] | None:
    """What each index adds to the first one; None where steps contradict each other or do not reach all."""
    known = {values[0]: 0}
    for value in values:  # a step leads from a lower index to a higher one
        for low, high, more in steps[steps[:, 0] == value].tolist() if value in known else ():
            if known.setdefault(high, known[low] + more) != known[low] + more:
                return None
    return dict(sorted(known.items())) if len(known) == len(values) else None


def _stride(table: Mapping[int, int]) -> int | None:
    """The one stride of what indices add, or None. Of one index alone it is 0."""
    index, added = (np.array(list(values)) for values in (table, table.values()))
    if len(index) == 1:
        return 0
    stride = int(added[1] - added[0]) // int(index[1] - index[0])
    return stride if np.array_equal(added - added[0], stride * (index - index[0])) else None


def _cut(table: Mapping[int, int]) -> tuple[int, int, int] | None:
    """(x, stride of index // x, stride of index % x), or None."""
    index, added = (np.array(list(values)) for values in (table, table.values()))
    for x in range(2, int(index[-1])):
        pairs = np.stack([index // x, index % x], axis=1)
        solved = np.rint(np.linalg.lstsq(pairs.astype(np.float64), added.astype(np.float64), rcond=None)[0])
        if index[-1] >= x and np.array_equal(pairs @ solved.astype(np.int64), added):
            return x, int(solved[0]), int(solved[1])
    return None
