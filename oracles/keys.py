"""K and V of attention as exact numbers: parts side by side, codes times their scales, times k_scale and v_scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvconform.oracles import memory, paged
from kvconform.oracles.paged import Reading
from kvconform.specs import scales
from kvconform.specs.data import Array
from kvconform.specs.dtypes import numbers
from kvconform.specs.paged import PagedInputs
from kvconform.specs.row import SCALE, SIDES, ZERO, Part

Floats = npt.NDArray[np.float64]
Slots = Sequence[Array]
"""Of each side the slots that its tokens lie in."""

ROUNDED_BY = {SCALE: 2, ZERO: 2}
"""Roundings of a number that is made of a code, at most: the scale into the type of the arithmetic, and the product;
the zero, and the sum."""


@dataclass(frozen=True)
class Numbers:
    """K or V of some tokens.

    values     float64 [tokens, heads, dim]; heads is 1 where the cache has none
    size       like values: the sum of the magnitudes that each is made of; None: its own, since no zero cancels
    roundings  of each element on its way from the cache, at most
    """

    values: Floats
    size: Floats | None
    roundings: int

    def times(self, factor: Floats) -> Numbers:
        """Each with a scale that is rounded into the type of the arithmetic."""
        size = None if self.size is None else self.size * np.abs(factor)
        return Numbers(self.values * factor, size, self.roundings + ROUNDED_BY[SCALE])

    def plus(self, zero: Floats) -> Numbers:
        """Each with a zero that is rounded into the type of the arithmetic."""
        size = (np.abs(self.values) if self.size is None else self.size) + np.abs(zero)
        return Numbers(self.values + zero, size, self.roundings + ROUNDED_BY[ZERO])


def of_tokens(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading, side: int, slots: Slots) -> Numbers:
    """K or V of the tokens in some slots, as a reading takes them."""
    found = _beside([_numbers(inputs, cache, reading, part, slots) for part in inputs.row.attended[side]])
    scale = reading.scales[side]
    if scale is None:
        return found
    page, slot = np.divmod(slots[side] % (inputs.sizes["page"] * inputs.case.page_size), inputs.case.page_size)
    factor = scales.at(scale, inputs.case.kv_scales, page, slot).astype(np.float64)[..., None]
    with np.errstate(all="ignore"):  # what is dead may hold anything
        return found.times(factor)


def _beside(parts: list[Numbers]) -> Numbers:
    """Numbers whose dims are those of several, one after another."""
    if len(parts) == 1:
        return parts[0]
    sized = any(one.size is not None for one in parts)
    sizes = [np.abs(one.values) if one.size is None else one.size for one in parts] if sized else []
    values = np.concatenate([one.values for one in parts], -1)
    return Numbers(values, np.concatenate(sizes, -1) if sized else None, max(one.roundings for one in parts))


def of_all(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading) -> tuple[Numbers, Numbers]:
    """K and V of all sequences, one after another."""
    return of_some(inputs, cache, reading, list(range(len(reading.lens))))


def _slots(inputs: PagedInputs, reading: Reading, seqs: list[int]) -> Slots:
    return [paged.slots_of(inputs, reading, seqs, side) for side in SIDES]


def of_some(
    inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading, seqs: list[int]
) -> tuple[Numbers, Numbers]:
    """K and V of some sequences, one after another."""
    slots = _slots(inputs, reading, seqs)
    k, v = (of_tokens(inputs, cache, reading, side, slots) for side in SIDES)
    return k, v


def _numbers(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading, part: Part, slots: Slots) -> Numbers:
    """The numbers of one part."""
    codes, beside = stored(inputs, cache, reading, part, slots)
    found = Numbers(codes, None, 0)
    with np.errstate(all="ignore"):  # what is dead may hold anything
        if SCALE in beside and SCALE in reading.counts:
            found = found.times(beside[SCALE])
        if ZERO in beside and ZERO in reading.counts:
            found = found.plus(beside[ZERO])
    return found


def stored(
    inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading, part: Part, slots: Slots
) -> tuple[Floats, dict[str, Floats]]:
    """The codes of a part, [tokens, heads, dim], and the scales and zeros beside them, as they broadcast to that."""
    row, dtype = inputs.row, inputs.case.dtype
    codes = _read(inputs, cache, reading, part, slots)
    found = {"": numbers(row.dtype_of(part, dtype), codes)}
    for what in (SCALE, ZERO):
        other = row.beside(part, what)
        if other is not None:
            found[what] = _spread(inputs, part, other, _read(inputs, cache, reading, other, slots), codes.shape)
    if "head" not in row.token_axes(part):
        found = {what: values[:, None] for what, values in found.items()}
    return found.pop(""), found


def _read(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading, part: Part, slots: Slots) -> Array:
    taken = reading.parts[inputs.row.parts.index(part)]
    at = paged.token_coordinates(inputs, taken, slots[taken.side], reading.row)
    return memory.load(reading.row, cache, taken, at, inputs.sizes, inputs.case.dtype)


def _spread(inputs: PagedInputs, part: Part, beside: Part, shared: Array, shape: tuple[int, ...]) -> Floats:
    """What a token's codes share, one entry a code: [tokens, *token axes of the codes], or broadcasting to it."""
    row, dtype = inputs.row, inputs.case.dtype
    values = numbers(row.dtype_of(beside, dtype), shared)
    has = row.token_axes(beside)
    for place, axis in enumerate(row.token_axes(part), start=1):
        if axis not in has:
            values = np.expand_dims(values, place)
        elif (step := row.step(beside, axis, inputs.sizes, dtype)) > 1:
            values = np.repeat(values, step, place).take(range(shape[place]), place)
    return values
