"""Implementations that take a cache of one row for another: whatever the layout they are told, they use their own.

They are what a diagnosis is tried on. They address by the row's own formula through `oracles/memory.py`, so every row
can be used wrongly in the same way. Attention is computed plainly in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvconform.oracles import memory
from kvconform.oracles.verdict import Raised
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import width
from kvconform.specs.layouts import LAYOUTS, SIDES, Layout, Part
from kvconform.specs.paged import PagedInputs
from kvconform.specs.pattern import LineError

Cache = dict[str, Array]
"""Buffer -> its array."""


def _given(side: int, tables: Any) -> Any:
    return tables[side]


@dataclass(frozen=True)
class Uses:
    """An implementation, called like `Subject.call`.

    rows      the row that it uses for K and for V
    of        the side whose parts it takes for K and for V
    table     (side, the tables of K and of V) -> the one [num_seqs, width] that it reads by
    move      (part, coordinates by axis) -> the coordinates that it uses
    head_of   (q heads, num_kv_heads) -> the kv head of each
    lse       (lse in nats, q . k factor) -> what is returned; None: no lse is
    scaled    factor of the values it returns or stores; None: they are moved
    """

    rows: tuple[Layout, Layout]
    of: tuple[int, int] = SIDES
    table: Callable[[int, Any], Any] = _given
    move: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = lambda part, at: at
    head_of: Callable[[Any, int], Any] = lambda heads, num: heads // (len(heads) // num)
    lse: Callable[[Any], Any] | None = lambda lse: lse
    scaled: float | None = None
    _memo: dict[Any, tuple[str, Array]] = field(default_factory=dict)

    @classmethod
    def only(cls, name: str | Layout, **changes: Any) -> Uses:
        """One row, by its name or itself, for K and V alike."""
        row = LAYOUTS[name] if isinstance(name, str) else name
        return cls((row, row), **changes)

    def __call__(self, case: Case, op: str, **arguments: Any) -> dict[str, Any]:
        """The results of an operation by name. Raises Raised where the used row cannot be built or reaches too far."""
        run: Callable[..., dict[str, Any]] = getattr(self, "_" + op)
        try:
            return run(PagedInputs(case), **arguments)
        except (LineError, IndexError) as e:
            raise Raised(f"{op} raised {type(e).__name__}: {e}") from e

    def _append(self, x: PagedInputs, cache: Cache, k: Any, v: Any, slot_mapping: Array, layout: str) -> dict[str, Any]:
        cache = {name: array.copy() for name, array in cache.items()}
        mappings = (slot_mapping,) * 2 if slot_mapping.ndim == 1 else slot_mapping
        for part, rows in self._given(x, k, v):
            slots = mappings[part.side].astype(np.int64)
            live = slots >= 0
            page, slot = np.divmod(slots[live], x.case.page_size)
            self._store(x, cache, part, page, slot, self._values(rows[live]))
        return {"cache": cache}

    def _gather(self, x: PagedInputs, cache: Cache, block_table: Array, kv_lens: Array, layout: str) -> dict[str, Any]:
        seq = np.repeat(np.arange(len(kv_lens)), kv_lens)
        position = np.concatenate([np.arange(n) for n in kv_lens])
        return {part.name: self._values(self._load(x, cache, part, block_table, seq, position)) for part in x.row.parts}

    def _paged_decode(
        self,
        x: PagedInputs,
        q: Array,
        cache: Cache,
        block_table: Array,
        kv_lens: Array,
        layout: str,
        sm_scale: float,
        num_splits: int,
    ) -> dict[str, Any]:
        longest = int(max(kv_lens))
        heads = self.head_of(np.arange(q.shape[1]), x.case.num_kv_heads)
        k, v = (
            cache[name].reshape(-1)[index[:, :longest]].astype(np.float32)[:, :, heads]
            for name, index in (self._elements(x, part, block_table) for part in x.row.parts)
        )
        score = np.einsum("shd,snhd->shn", q.astype(np.float32), k) * np.float32(sm_scale)
        score = np.where(np.arange(longest) < kv_lens[:, None, None], score, -np.inf)
        top = score.max(-1, keepdims=True)
        weight = np.exp(score - top)
        out = np.einsum("shn,snhd->shd", weight, v) / weight.sum(-1, keepdims=True)
        got = {"out": self._values(out.astype(q.dtype))}
        return got if self.lse is None else got | {"lse": self.lse(top[..., 0] + np.log(weight.sum(-1)))}

    def _elements(self, x: PagedInputs, part: Part, block_table: Array) -> tuple[str, Array]:
        """(buffer, index into it) of every element that sequences may have: [num_seqs, room, heads, dims]."""
        key = (x.case, part.name, block_table.tobytes())
        if key not in self._memo:
            room = x.case.page_size * block_table.shape[-1]
            seq, position = np.divmod(np.arange(len(block_table) * room), room)
            page = self._pages(x, part, block_table, seq, position)
            row, other, at = self._at(x, part, page, position % x.case.page_size)
            name, bits = row.address(other, at, x.sizes, x.case.dtype)
            if row.buffers != x.row.buffers:
                before = row.buffers[: row.buffers.index(name)]
                bits = bits + 8 * sum(row.num_bytes(one, x.sizes, x.case.dtype) for one in before)
                (name,) = x.row.buffers
            index = np.broadcast_to(bits // width(x.case.dtype), at[0].shape)
            self._memo[key] = name, index.reshape(len(block_table), room, *index.shape[1:])
        return self._memo[key]

    def _values(self, rows: Array) -> Array:
        return rows if self.scaled is None else np.asarray((rows * self.scaled).astype(rows.dtype))

    def _given(self, x: PagedInputs, k: Any, v: Any) -> Iterator[tuple[Part, Array]]:
        for side, argument in zip(SIDES, (k, v), strict=True):
            for part in x.row.of_side(side):
                yield part, argument[part.name] if isinstance(argument, dict) else argument

    def _at(self, x: PagedInputs, part: Part, page: Array, slot: Array) -> tuple[Layout, Part, tuple[Array, ...]]:
        """(row, the part it is taken for, coordinates) of whole tokens."""
        row, side = self.rows[part.side], self.of[part.side]
        other = row.part("kv"[side] + part.name[1:] if self.of != SIDES else part.name)
        grid = x.row.token_grid(part, x.sizes, x.case.dtype)
        lead = (slice(None), *(None for _ in grid))
        given = {"page": page[lead], "slot": slot[lead], **dict(zip(x.row.token_axes(part), grid, strict=True))}
        at = self.move(part, given)
        shape = (len(page), *(g.size for g in grid))
        return row, other, tuple(np.broadcast_to(at.get(axis, 0), shape) for axis in other.axes)

    def _pages(self, x: PagedInputs, part: Part, block_table: Array, seq: Array, position: Array) -> Array:
        tables = block_table.swapaxes(0, 1) if block_table.ndim == 3 else (block_table,) * 2
        table = self.table(part.side, tables).astype(np.int64)
        return np.asarray(table[seq, position // x.case.page_size])

    def _load(self, x: PagedInputs, cache: Cache, part: Part, block_table: Array, seq: Array, position: Array) -> Array:
        page = self._pages(x, part, block_table, seq, position)
        row, other, at = self._at(x, part, page, position % x.case.page_size)
        return memory.load(row, as_buffers_of(row, x, cache), other, at, x.sizes, x.case.dtype)

    def _store(self, x: PagedInputs, cache: Cache, part: Part, page: Array, slot: Array, values: Array) -> None:
        row, other, at = self._at(x, part, page, slot)
        own = as_buffers_of(row, x, cache)
        memory.store(row, own, other, at, values, x.sizes, x.case.dtype)
        if own is not cache:
            put_back(cache, own)


def as_buffers_of(row: Layout, x: PagedInputs, cache: Cache) -> Cache:
    """A cache of one buffer cut into those of another row, from its first byte on; as it is where they are the same."""
    if row.buffers == x.row.buffers:
        return cache
    (octets,) = (array.reshape(-1).view(np.uint8) for array in cache.values())
    found: Cache = {}
    start = 0
    for name in row.buffers:
        count = row.num_bytes(name, x.sizes, x.case.dtype)
        found[name] = octets[start : start + count].copy()
        start += count
    return found


def put_back(cache: Cache, own: Cache) -> None:
    """Write the buffers of another row into the one that they were cut from."""
    (octets,) = (array.reshape(-1).view(np.uint8) for array in cache.values())
    written = np.concatenate(list(own.values()))
    octets[: len(written)] = written
