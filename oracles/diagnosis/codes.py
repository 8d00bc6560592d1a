"""Contents whose values decode to addresses: of every address each run holds one digit, the last runs a check.

A unit is the least that is told apart: a byte, or as many bits as the narrowest part of a row has. A digit is never
the pattern 0, so that what was not written, or was cleared, decodes to nothing; and no digits make a NaN, an infinity
or a subnormal of any floating type, so that a kernel may move values through its float registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from kvconform.specs import data
from kvconform.specs.data import Array
from kvconform.specs.dtypes import host, width
from kvconform.specs.layouts import Layout, Part
from kvconform.specs.row import Sizes

NONE = -1
"""Stands for an address where nothing decodes to one."""

PATTERNS = {8: (0x20, 64), 4: (1, 7), 2: (1, 2)}
"""Bits of a unit -> the pattern of digit 0, and how many digits there are."""

CHECKS = 1024
"""Values of a check: what is no address passes for one, element by element, once in so many times."""


@dataclass(frozen=True)
class Code:
    """Numbers from 0 to below `total` as digits, one a run; behind the number's own those of a check of it."""

    base: int
    total: int

    @cached_property
    def num_runs(self) -> int:
        """Digits of a number and of its check."""
        return next(n for n in range(1, 64) if self.base**n >= self.total * CHECKS)

    def digits(self, numbers: Array) -> Array:
        """int64 [num_runs, *shape]."""
        words = numbers * CHECKS + self._check(numbers)
        return np.stack([words // self.base**run % self.base for run in range(self.num_runs)])

    def numbers(self, digits: Array) -> Array:
        """The numbers that digits [num_runs, *shape] spell; NONE where one is none or the check fails."""
        places = self.base ** np.arange(self.num_runs).reshape(-1, *(1,) * (digits.ndim - 1))
        numbers, check = np.divmod((digits * places).sum(0), CHECKS)
        good = ((digits >= 0) & (digits < self.base)).all(0) & (numbers < self.total) & (check == self._check(numbers))
        return np.where(good, numbers, NONE)

    def _check(self, numbers: Array) -> Array:
        return (data.hashes(0, "check", numbers) % np.uint64(CHECKS)).astype(np.int64)


@dataclass(frozen=True)
class Units:
    """The units of a row's buffers, numbered from the first buffer to the last.

    row, sizes, dtype   the row as claimed
    bits                of a unit
    """

    row: Layout
    sizes: Sizes
    dtype: str
    bits: int
    _memo: dict[str, dict[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, row: Layout, sizes: Sizes, dtype: str) -> Units:
        """The largest units of which every part is a whole number, a byte at most."""
        return cls(row, sizes, dtype, min(8, *(width(row.dtype_of(part, dtype)) for part in row.parts)))

    @cached_property
    def starts(self) -> dict[str, int]:
        """Buffer -> its first unit."""
        return self._starts(self.row)

    @cached_property
    def total(self) -> int:
        """Units of all buffers."""
        return sum(8 * self.row.num_bytes(b, self.sizes, self.dtype) // self.bits for b in self.row.buffers)

    def _starts(self, row: Layout) -> dict[str, int]:
        if row.name not in self._memo:
            self._memo[row.name] = self._counted(row)
        return self._memo[row.name]

    def _counted(self, row: Layout) -> dict[str, int]:
        counts = [8 * row.num_bytes(buffer, self.sizes, self.dtype) // self.bits for buffer in row.buffers]
        return dict(zip(row.buffers, accumulate(counts, initial=0), strict=False))

    def each(self, part: Part) -> int:
        """Units of one element of a part."""
        return width(self.row.dtype_of(part, self.dtype)) // self.bits

    def places(self, row: Layout, part: Part, at: Mapping[str, Array]) -> Array:
        """The first unit of elements, where a row has them: in the same buffers, or in its own one behind another.

        at   axis -> coordinates
        """
        coordinates = tuple(at.get(axis, np.zeros(1, np.int64)) for axis in part.axes)
        buffer, bits = row.address(part, coordinates, self.sizes, self.dtype)
        starts = self.starts if row.buffers == self.row.buffers else self._starts(row)
        return np.asarray(starts[buffer] + np.asarray(bits) // self.bits)

    # --- digits as contents

    @property
    def base(self) -> int:
        """How many digits a unit can hold."""
        return PATTERNS[self.bits][1]

    def cache(self, digits: Array) -> dict[str, Array]:
        """Every buffer, its units holding these digits in turn."""
        patterns = (digits + PATTERNS[self.bits][0]).astype(np.uint8)
        found = {}
        for name, start in self.starts.items():
            shape, word = self.row.shape(name, self.sizes, self.dtype), self.row.word_of(name, self.dtype)
            count = 8 * self.row.num_bytes(name, self.sizes, self.dtype) // self.bits
            found[name] = _joined(patterns[start : start + count], self.bits).view(word).reshape(shape)
        return found

    def written(self, cache: Mapping[str, Array]) -> Array:
        """The digits that all buffers hold, unit by unit; NONE where there is none."""
        return np.concatenate([self._digits(_cut(cache[name].reshape(-1), self.bits).ravel()) for name in self.starts])

    def values(self, part: Part, digits: Array) -> Array:
        """Elements of a part as a kernel takes them, from the digits of their units [..., each]."""
        of = self.row.dtype_of(part, self.dtype)
        patterns = (digits + PATTERNS[self.bits][0]).astype(np.uint8)
        if width(of) < 8:
            return _joined(patterns, self.bits, width(of))[..., 0]
        return _joined(patterns, self.bits).view(host(of))[..., 0]

    def read(self, part: Part, values: Array) -> Array:
        """The digits of the units [..., each] of a part's elements as a kernel returns them."""
        return self._digits(_cut(values[..., None], self.bits)[..., : self.each(part)])

    def _digits(self, patterns: Array) -> Array:
        first, base = PATTERNS[self.bits]
        digits = patterns.astype(np.int64) - first
        return np.where((digits >= 0) & (digits < base), digits, NONE)


def whole(numbers: Array) -> Array:
    """Of the numbers of an element's units [..., each] the first, where the others follow it; else NONE."""
    follow = (numbers == numbers[..., :1] + np.arange(numbers.shape[-1])).all(-1)
    return np.where(follow, numbers[..., 0], NONE)


def _cut(values: Array, bits: int) -> Array:
    """The units of values, in a last axis that replaces theirs: bytes from the first, bits from the lowest."""
    octets = np.ascontiguousarray(values).view(np.uint8)
    if bits == 8:
        return octets
    units = octets[..., None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
    return units.reshape(*octets.shape[:-1], -1)


def _joined(units: Array, bits: int, of: int = 8) -> Array:
    """Codes of `of` bits from their units: the inverse of `_cut`."""
    if bits == of:
        return np.ascontiguousarray(units)
    apart = units.reshape(*units.shape[:-1], -1, of // bits)
    shifts: Any = np.arange(0, of, bits, dtype=np.uint8)
    return np.asarray((apart << shifts).sum(-1).astype(np.uint8))
