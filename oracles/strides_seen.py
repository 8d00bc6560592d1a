"""The strides that addresses have, whatever made them: address = base + what each index adds.

What an index adds is solved for, not assumed, and every address is checked against the sum. An axis then has one
stride, or two where it is cut (`dim // 8` and `dim % 8`), or is a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvconform.specs.data import Array

EQUATIONS = 1 << 12
"""Addresses that are solved for at once; all are checked."""


@dataclass(frozen=True)
class Strides:
    """Addresses as a sum.

    base    of index 0 on every axis, or of the least one where an axis is a list
    added   axis -> {index: what it adds}
    """

    base: int
    added: Mapping[str, Mapping[int, int]]

    def terms(self) -> dict[str, str]:
        """What each axis adds, in words: `head`: `64`; `dim // 8`: `24`, `dim % 8`: `1`."""
        found: dict[str, str] = {}
        for axis, table in self.added.items():
            stride = _stride(table)
            cut = None if stride is not None else _cut(table)
            if stride is not None:
                found[axis] = str(stride)
            elif cut is not None:
                found |= {f"{axis} // {cut[0]}": str(cut[1]), f"{axis} % {cut[0]}": str(cut[2])}
            else:
                found[axis] = ", ".join(map(str, table.values()))
        return found


def strides(address: Array, at: Mapping[str, Array]) -> Strides | None:
    """Solve for the strides; None where the addresses are no such sum.

    address   [n];  at: axis -> [n] indices
    """
    names = {axis: np.unique(index, return_inverse=True) for axis, index in at.items()}
    columns = {axis: len(values) - 1 for axis, (values, _) in names.items()}
    starts = dict(zip(columns, np.cumsum([1, *columns.values()])[:-1].tolist(), strict=True))
    matrix = np.zeros((len(address), 1 + sum(columns.values())))
    matrix[:, 0] = 1
    for axis, (_, which) in names.items():
        later = which > 0
        matrix[np.flatnonzero(later), starts[axis] + which[later] - 1] = 1
    some = np.linspace(0, len(address) - 1, min(len(address), EQUATIONS)).astype(np.int64)
    solved = np.rint(np.linalg.lstsq(matrix[some], address[some].astype(np.float64), rcond=None)[0]).astype(np.int64)
    if not np.array_equal(matrix.astype(np.int64) @ solved, address):
        return None
    base, added = int(solved[0]), {}
    for axis, (values, _) in names.items():
        own = [0, *solved[starts[axis] : starts[axis] + columns[axis]].tolist()]
        stride = _stride(dict(zip(values.tolist(), own, strict=True)))
        first = int(values[0]) * (stride or 0)
        base -= first
        added[axis] = {index: more + first for index, more in zip(values.tolist(), own, strict=True)}
    return Strides(base, added)


def linear_axes(address: Array, at: Mapping[str, Array]) -> dict[str, int]:
    """Axis -> its stride, of the axes along which every neighbour is equally far, all other indices alike."""
    found = {}
    for axis, index in at.items():
        others = [other for name, other in at.items() if name != axis]
        order = np.lexsort((index, *others))
        same = np.all([other[order][1:] == other[order][:-1] for other in others], axis=0)
        steps, far = np.diff(index[order])[same], np.diff(address[order])[same]
        if len(steps) and (steps > 0).all() and not (far % steps).any() and len(set((far // steps).tolist())) == 1:
            found[axis] = int(far[0] // steps[0])
    return found


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
