"""append and gather by the row's address, and how any kernel finds the tokens of a sequence.

A `Reading` says how tables and lengths are interpreted. The right one is `Reading.of(inputs)`; every named mistake
(`oracles/mistakes.py`) is that Reading with something changed, applied to the same cache bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import numpy as np

from kvconform.oracles import memory
from kvconform.oracles.bound import OutsideDomain
from kvconform.oracles.memory import Cache
from kvconform.oracles.verdict import Exact
from kvconform.specs.data import Array
from kvconform.specs.paged import PagedInputs
from kvconform.specs.row import SCALE, SIDES, ZERO, Layout, Part, in_words


@dataclass(frozen=True)
class Reading:
    """How the cache is addressed.

    row      the layout
    parts    which part each part of a token is taken from, or written to
    tables   [num_seqs, width] pages, of K and of V
    lens     [num_seqs]
    slots    [num_rows] of append, of K and of V; one outside the cache is dropped
    first    the first position of a sequence that is read
    scales   k_scale and v_scale, or None
    counts   what of that which lies beside codes is counted
    misread  whether the tables are those of a wrong reader, which may lead anywhere
    """

    row: Layout
    parts: tuple[Part, ...]
    tables: tuple[Array, ...]
    lens: Array
    slots: tuple[Array, ...]
    first: int = field(default=0, kw_only=True)
    scales: tuple[Array | None, Array | None] = field(default=(None, None), kw_only=True)
    counts: tuple[str, ...] = field(default=(SCALE, ZERO), kw_only=True)
    misread: bool = field(default=False, kw_only=True)

    @classmethod
    def of(cls, inputs: PagedInputs) -> Self:
        """The right reading of a Case."""
        row = inputs.row
        lens, scales = inputs.kv_lens.astype(np.int64), inputs.scales
        return cls(row, row.parts, inputs.given, lens, inputs.mappings, scales=scales)


def token_coordinates(inputs: PagedInputs, part: Part, slots: Array, row: Layout | None = None) -> tuple[Array, ...]:
    """Coordinates of whole tokens; slots outside the cache wrap, which only a mistake can ask for.

    row   differs from the Case's own in a mistake only
    """
    row = row or inputs.row
    size = inputs.case.page_size
    grid = row.token_grid(part, inputs.sizes, inputs.case.dtype)
    slots = (slots % max(1, inputs.sizes["page"] * size))[(slice(None), *(None for _ in grid))]
    named = dict(zip(row.token_axes(part), grid, strict=True)) | {"page": slots // size, "slot": slots % size}
    return tuple(named.get(axis, np.zeros_like(slots)) for axis in part.axes)


def appended(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None) -> Cache:
    """A copy of the cache with every token that is not skipped written to its slot."""
    reading = reading or Reading.of(inputs)
    return _written(inputs, cache, reading.slots, inputs.tokens, reading)


def filled(inputs: PagedInputs, k_contents: str, v_contents: str | None = None) -> Cache:
    """A cache that holds every live token of the Case, and elsewhere, where its `poison` says, what is asked for.

    k_contents   contents of what is dead (specs.data.DEAD), padding included; zeros where `poison` leaves it out
    v_contents   the same for V, where it is another
    """
    contents = (k_contents, k_contents if v_contents is None else v_contents)
    poison = inputs.case.poison
    cache = inputs.dead(k_contents if poison == "all" else "zero")
    if contents == ("zero", "zero"):
        pass
    elif poison == "padding":
        for name, array in inputs.dead(k_contents).items():
            padding = inputs.row.padding(name, inputs.sizes, inputs.case.dtype)
            cache[name][padding] = array[padding]
    elif poison != "evicted" and (poison != "all" or contents[0] != contents[1]):
        for part in inputs.row.parts:
            _poison(inputs, cache, part, inputs.dead(contents[part.side]), inputs.dead_slots[part.side])
    _put_tokens(inputs, cache)
    if poison == "evicted":
        for part in inputs.row.parts:
            if contents[part.side] != "zero":
                slots = {poison: inputs.slots[part.side][inputs.evicted]}
                _poison(inputs, cache, part, inputs.dead(contents[part.side]), slots)
    return cache


def _poison(
    inputs: PagedInputs, cache: Cache, part: Part, contents: Mapping[str, Array], slots: Mapping[str, Array]
) -> None:
    """Put contents where no token lives, in the slots that the Case's `poison` names; in place."""
    for name in slots:
        if inputs.case.poison in ("all", name):
            _put_dead(inputs, cache, part, contents, slots[name])


def _put_dead(inputs: PagedInputs, cache: Cache, part: Part, contents: Mapping[str, Array], slots: Array) -> None:
    """Put contents into some slots, in place."""
    sizes, dtype = inputs.sizes, inputs.case.dtype
    at = token_coordinates(inputs, part, slots)
    dead = memory.load(inputs.row, contents, part, at, sizes, dtype)
    memory.store(inputs.row, cache, part, at, dead, sizes, dtype)


def emptied(inputs: PagedInputs, cache: Cache, contents: tuple[str, str], slots: tuple[Array, ...]) -> None:
    """Put what slots hold to which no token was written yet into some slots of K and of V, in place."""
    for part in inputs.row.parts:
        _put_dead(inputs, cache, part, inputs.dead(contents[part.side]), slots[part.side])


def over(inputs: PagedInputs, cache: Mapping[str, Array]) -> Cache:
    """A copy of the cache with every live token written, skipped by append or not."""
    cache = {name: array.copy() for name, array in cache.items()}
    _put_tokens(inputs, cache)
    return cache


def _put_tokens(inputs: PagedInputs, cache: Cache) -> None:
    """Write every live token, in place."""
    for part in inputs.row.parts:
        if part.name not in inputs.places:
            at = token_coordinates(inputs, part, inputs.slots[part.side])
            inputs.places[part.name] = memory.spots(inputs.row, cache, part, at, inputs.sizes, inputs.case.dtype)
        memory.write(cache, inputs.places[part.name], inputs.tokens[part.name][: inputs.num_tokens])


def _written(
    inputs: PagedInputs,
    cache: Mapping[str, Array],
    slots: tuple[Array, ...],
    tokens: Mapping[str, Array],
    reading: Reading,
) -> Cache:
    cache = {name: array.copy() for name, array in cache.items()}
    end = inputs.sizes["page"] * inputs.case.page_size
    for part, rows in zip(reading.parts, tokens.values(), strict=True):
        to = slots[part.side]
        live = (to >= 0) & (to < end)
        at = token_coordinates(inputs, part, to[live], reading.row)
        memory.store(reading.row, cache, part, at, rows[live], inputs.sizes, inputs.case.dtype)
    return cache


def slots_of(inputs: PagedInputs, reading: Reading, seqs: list[int], side: int) -> Array:
    """The slots that are read for K, or for V, of several sequences, one after another.

    Raises OutsideDomain where a table that is misread leads to a page that is none: nobody knows what is there.
    """
    lens = np.maximum(reading.lens[seqs] - reading.first, 0)
    seq, starts = np.repeat(seqs, lens), np.repeat(np.cumsum(lens) - lens, lens)
    position = reading.first + np.arange(len(seq)) - starts
    size, table = inputs.case.page_size, reading.tables[side]
    page = table[seq, np.minimum(position // size, table.shape[1] - 1)].astype(np.int64)
    if reading.misread and ((page < 0) | (page >= inputs.sizes["page"])).any():
        raise OutsideDomain(f"a page is read that is none of {inputs.sizes['page']}")
    return np.asarray(page * size + position % size)


def gathered(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None) -> tuple[Array, ...]:
    """Every part of all sequences, one after another."""
    reading = reading or Reading.of(inputs)
    slots, rows = [slots_of(inputs, reading, list(range(len(reading.lens))), side) for side in SIDES], []
    for part in reading.parts:
        at = token_coordinates(inputs, part, slots[part.side], reading.row)
        rows.append(memory.load(reading.row, cache, part, at, inputs.sizes, inputs.case.dtype))
    return tuple(rows)


def expect_append(
    inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None, padding: str = "kept"
) -> dict[str, Exact]:
    """Every byte of every buffer after append; `padding`: the convention about that of the slots it writes."""
    reading = reading or Reading.of(inputs)
    free = {} if padding == "kept" else {name: _padding(inputs, name, reading.slots[0]) for name in cache}
    return expect_cache(inputs, appended(inputs, cache, reading), free)


def _padding(inputs: PagedInputs, buffer: str, slots: Array) -> Array:
    live = slots[(slots >= 0) & (slots < inputs.sizes["page"] * inputs.case.page_size)]
    return inputs.row.padding_of(buffer, np.divmod(live, inputs.case.page_size), inputs.sizes, inputs.case.dtype)


def expect_cache(
    inputs: PagedInputs, cache: Mapping[str, Array], free: Mapping[str, Array] | None = None
) -> dict[str, Exact]:
    """Every byte of every buffer as it is in `cache`, but those that are free."""
    where = partial(located, inputs)
    return {name: Exact(array, partial(where, name), (free or {}).get(name)) for name, array in cache.items()}


def located(inputs: PagedInputs, buffer: str, index: tuple[int, ...]) -> str:
    """What lies in one word of a buffer, and whose slot that is: `k: page 7, slot 3, head 1, dim 0 (free)`."""
    found = inputs.row.place(buffer, index, inputs.sizes, inputs.case.dtype)
    if found is None or not {"page", "slot"} <= found[1].keys():
        return in_words(found)
    part, at = found
    return f"{in_words(found)} ({owner_of(inputs, part.side, at['page'] * inputs.case.page_size + at['slot'])})"


def owner_of(inputs: PagedInputs, side: int, slot: int) -> str:
    """Whose a slot of K, or of V, is, for people."""
    for token in np.flatnonzero(inputs.slots[side] == slot)[:1]:
        seq, position = (int(of[token]) for of in inputs.owners)
        return f"position {position} of seq {seq}"
    if slot in inputs.dead_slots[side]["tails"]:
        return "past the newest token"
    return "free"


def contested(inputs: PagedInputs) -> list[Reading]:
    """Of an append with several tokens for one slot: one reading for each of them that may stay there."""
    right = Reading.of(inputs)
    rows = np.flatnonzero((right.slots[0] == right.slots[0][0]) & (right.slots[0] >= 0)) if inputs.num_rows else ()
    readings = []
    for row in rows:
        others = np.setdiff1d(rows, [row])
        slots = tuple(to.copy() for to in right.slots)
        for to in slots:
            to[others] = -1
        readings.append(replace(right, slots=slots))
    return readings or [right]


def strays(inputs: PagedInputs) -> list[int]:
    """The slots of an append that lie below -1 or past the cache's end."""
    end = inputs.sizes["page"] * inputs.case.page_size
    return sorted({int(slot) for to in inputs.mappings for slot in to if slot < -1 or slot >= end})


def expect_gather(inputs: PagedInputs, cache: Mapping[str, Array], reading: Reading | None = None) -> dict[str, Exact]:
    """Every part that gather must return."""
    parts = zip(inputs.row.parts, gathered(inputs, cache, reading), strict=True)
    return {part.name: Exact(rows, partial(located_token, inputs, part)) for part, rows in parts}


def located_token(inputs: PagedInputs, part: Part, index: tuple[int, ...]) -> str:
    """What an element of a part of all tokens, sequence after sequence, is of, and where that lies."""
    (token, *inner), (seq, position) = index, inputs.owners
    page, slot = divmod(int(inputs.slots[part.side][token]), inputs.case.page_size)
    rest = "".join(f", {axis} {i}" for axis, i in zip(inputs.row.token_axes(part), inner, strict=True))
    return f"seq {seq[token]}, position {position[token]} (page {page}, slot {slot}){rest}"
