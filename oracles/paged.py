"""append and gather by the row's address, and how any kernel finds the tokens of a sequence.

A `Reading` says how tables and lengths are interpreted. The right one is `Reading.of(inputs)`; every named mistake
(`oracles/mistakes.py`) is that Reading with something changed, applied to the same cache bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import numpy as np

from kvconform.oracles import memory
from kvconform.oracles.memory import Cache
from kvconform.oracles.verdict import Exact
from kvconform.specs.data import Array
from kvconform.specs.layouts import SIDE_NAMES, Layout, V
from kvconform.specs.paged import PagedInputs


@dataclass(frozen=True)
class Reading:
    """How the cache is addressed.

    row     the layout
    sides   which side K and V are taken from, or written to
    table   [num_seqs, width] pages;  lens [num_seqs];  slots [num_rows] of append, -1 skips
    first   the first position of a sequence that is read
    """

    row: Layout
    sides: tuple[int, ...]
    table: Array
    lens: Array
    slots: Array
    first: int = field(default=0, kw_only=True)

    @classmethod
    def of(cls, inputs: PagedInputs) -> Self:
        """The right reading of a Case."""
        row = inputs.case.row
        return cls(
            row, row.sides, inputs.block_table, inputs.kv_lens.astype(np.int64), inputs.slot_mapping.astype(np.int64)
        )


def _coordinates(inputs: PagedInputs, slots: Array) -> tuple[Array, ...]:
    """Coordinates of whole tokens; slots outside the cache wrap, which only a mistake can ask for."""
    size = inputs.case.page_size
    slots = slots % max(1, inputs.sizes["page"] * size)
    lead = (slice(None), *(None for _ in inputs.token_shape))
    inner = tuple(np.ogrid[tuple(slice(0, n) for n in inputs.token_shape)])
    return (slots // size)[lead], (slots % size)[lead], *inner


def appended(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None) -> Cache:
    """A copy of the cache with every token that is not skipped written to its slot."""
    reading = reading or Reading.of(inputs)
    return _written(inputs, cache, reading.slots, inputs.tokens, reading)


def filled(inputs: PagedInputs, k_contents: str, v_contents: str | None = None) -> Cache:
    """A cache that holds every live token of the Case, and `k_contents` (`v_contents` for V) everywhere else."""
    cache = inputs.dead(k_contents)
    if v_contents is not None:
        row = inputs.case.row
        everywhere = tuple(np.ogrid[tuple(slice(0, inputs.sizes[axis]) for axis in row.axes)])
        other = memory.load(row, inputs.dead(v_contents), V, everywhere, inputs.sizes)
        memory.store(row, cache, V, everywhere, other, inputs.sizes)
    return over(inputs, cache)


def over(inputs: PagedInputs, cache: Mapping[str, Array]) -> Cache:
    """A copy of the cache with every live token written, skipped by append or not."""
    live = tuple(None if rows is None else rows[: inputs.num_tokens] for rows in inputs.tokens)
    return _written(inputs, cache, inputs.slots, live, Reading.of(inputs))


def _written(
    inputs: PagedInputs, cache: Mapping[str, Array], slots: Array, tokens: tuple[Array | None, ...], reading: Reading
) -> Cache:
    cache = {name: array.copy() for name, array in cache.items()}
    live = slots != -1
    at = _coordinates(inputs, slots[live])
    for side, rows in zip(reading.sides, tokens, strict=False):
        if rows is not None:
            memory.store(reading.row, cache, side, at, rows[live], inputs.sizes)
    return cache


def sequence(inputs: PagedInputs, cache: Mapping[str, Array], seq: int, reading: Reading) -> tuple[Array, ...]:
    """K and V (or K alone) of one sequence, [kv_len, *token axes]."""
    position = np.arange(reading.first, max(reading.first, int(reading.lens[seq])))
    size, table = inputs.case.page_size, reading.table
    page = table[seq, np.minimum(position // size, table.shape[1] - 1)].astype(np.int64)
    at = _coordinates(inputs, page * size + position % size)
    return tuple(memory.load(reading.row, cache, side, at, inputs.sizes) for side in reading.sides)


def gathered(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None) -> tuple[Array, ...]:
    """K and V (or K alone) of all sequences, one after another."""
    reading = reading or Reading.of(inputs)
    parts = [sequence(inputs, cache, seq, reading) for seq in range(len(reading.lens))]
    return tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))


def expect_append(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None) -> dict[str, Exact]:
    """Every byte of every field after append."""
    row, dtype = inputs.case.row, inputs.case.dtype
    return {
        name: Exact(array, partial(row.where, name, sizes=inputs.sizes, dtype=dtype))
        for name, array in appended(inputs, cache, reading).items()
    }


def expect_gather(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None) -> dict[str, Exact]:
    """K and V (or K alone) that gather must return."""
    seq, position = inputs.owners

    def locate(index: tuple[int, ...]) -> str:
        token, *inner = index
        rest = ", ".join(f"{axis} {i}" for axis, i in zip(inputs.case.row.token_axes, inner, strict=True))
        page = inputs.block_table[seq[token], position[token] // inputs.case.page_size]
        slot = position[token] % inputs.case.page_size
        return f"seq {seq[token]}, position {position[token]} (page {page}, slot {slot}), {rest}"

    return {SIDE_NAMES[side]: Exact(rows, locate) for side, rows in enumerate(gathered(inputs, cache, reading))}
