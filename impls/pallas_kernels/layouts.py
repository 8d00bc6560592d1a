"""How the kernels address a paged cache: for K and for V a field, its page axis and its slot axis.

One index expression serves every layout: what remains of a field when its page and its slot are fixed is the row of one
token, and what remains when only its page is fixed is what one DMA brings. Where a row holds K and V together, no DMA
can take them apart: they are joined before a kernel and parted behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

Ref = Any  # a Pallas reference, or the part of one that `.at[...]` selects
Scalar = jax.Array


@dataclass(frozen=True)
class Stream:
    """K or V in a cache, or both where one row holds them together.

    field   name of the array in the cache
    page    its page axis
    slot    its slot axis
    half    None: all of the last axis; 0 or 1: its first or second half (of an interleaved field as `fold` leaves it)
    cut     of rows that are only attended to, and K's width: the elements that are K's, or V's; None: as `half` says
    """

    field: str
    page: int
    slot: int
    half: int | None = None
    cut: Callable[[jax.Array, int], jax.Array] | None = None

    def of_rows(self, rows: jax.Array, width: int) -> jax.Array:
        """K or V of rows [..., lane], K of a width."""
        if self.cut is not None:
            return self.cut(rows, width)
        if self.half is None:
            return rows
        dim = rows.shape[-1] // 2
        return rows[..., self.half * dim : (self.half + 1) * dim]

    def row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one token's row in a field of this shape."""
        kept = [size for axis, size in enumerate(shape) if axis not in (self.page, self.slot)]
        return (*kept[:-1], kept[-1] if self.half is None else kept[-1] // 2)

    def row(self, ref: Ref, page: Scalar, slot: Scalar) -> Ref:
        """The row of the token in `slot` of `page`."""
        index: list[Any] = [slice(None)] * len(ref.shape)
        if self.half is not None:
            dim = ref.shape[-1] // 2
            index[-1] = pl.ds(self.half * dim, dim)
        index[self.page], index[self.slot] = page, slot
        return ref.at[tuple(index)]

    def page_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one page of a field of this shape."""
        return shape[: self.page] + shape[self.page + 1 :]

    def page_of(self, ref: Ref, page: Scalar) -> Ref:
        """All of one page of the field."""
        return ref.at[(slice(None),) * self.page + (page,)]


Shapes = Sequence[tuple[int, ...]]
Sides = tuple[jax.Array, ...]
"""K and V, or codes: [num_tokens, ...] each."""


def _as_they_are(field: jax.Array) -> jax.Array:
    return field


def _row_each(sides: Sides, shapes: Shapes) -> list[jax.Array]:
    return [side.reshape(-1, *shape) for side, shape in zip(sides, shapes, strict=True)]


def _whole_dims(rows: Sides, token: tuple[int, ...]) -> Sides:
    """Rows [num_tokens, head, chunk, x], as split_x keeps K, are rows [num_tokens, head, dim]."""
    return tuple(row.reshape(*row.shape[:2], -1) if row.ndim == 4 else row for row in rows)


@dataclass(frozen=True)
class Row:
    """One layout.

    streams   K and, where the layout has values, V; a single one where one row holds both
    fold      a field as the kernels address it; it moves nothing
    join      K and V, and the shapes of the streams' rows: those rows
    part      such rows, and the shape of one token of K: K and V
    """

    streams: tuple[Stream, ...]
    fold: Callable[[jax.Array], jax.Array] = _as_they_are
    join: Callable[[Sides, Shapes], list[jax.Array]] = _row_each
    part: Callable[[Sides, tuple[int, ...]], Sides] = _whole_dims


def _separate(page: int, slot: int) -> tuple[Stream, ...]:
    return Stream("k", page, slot), Stream("v", page, slot)


def pair_rows(kv: jax.Array) -> jax.Array:
    """[..., 2 * head, dim] seen as [..., head, 2 * dim]: the halves of a row are K and V of one head.

    It makes of every second row, which no DMA can address, a half that one can.
    """
    *outer, rows, dim = kv.shape
    return kv.reshape(*outer, rows // 2, 2 * dim)


def _one_slot_a_page(field: jax.Array) -> jax.Array:
    return field[:, None]


def _packed(sides: Sides, shapes: Shapes) -> list[jax.Array]:
    """Rows K0 V0 K1 V1 ..., filled up with zeros to [row, pack, lane]: as many heads, and as long, as the cache's."""
    (row, pack, lane), (num_tokens, num_kv_heads, head_dim) = shapes[0], sides[0].shape
    kv = jnp.stack(sides, axis=2).reshape(num_tokens, 2 * num_kv_heads, head_dim)
    kv = jnp.pad(kv, ((0, 0), (0, row * pack - 2 * num_kv_heads), (0, lane - head_dim)))
    return [kv.reshape(num_tokens, row, pack, lane)]


def _unpacked(rows: Sides, token: tuple[int, ...]) -> Sides:
    num_kv_heads, head_dim = token
    kv = rows[0].reshape(rows[0].shape[0], -1, rows[0].shape[-1])
    return tuple(kv[:, side : 2 * num_kv_heads : 2, :head_dim] for side in (0, 1))


ROPE = 64
LANES = 128
"""Elements of a latent's second part; multiple that each of the two is filled up to."""


def _front(rows: jax.Array, width: int) -> jax.Array:
    return rows[..., :width]


def _behind(rows: jax.Array, width: int) -> jax.Array:
    return rows[..., width:]


def _latent(rows: jax.Array, width: int) -> jax.Array:
    return rows[..., : width - ROPE]


def _latent_and_rope(rows: jax.Array, width: int) -> jax.Array:
    rope = rows.shape[-1] - LANES
    return jnp.concatenate([_latent(rows, width), rows[..., rope : rope + ROPE]], axis=-1)


def _packed_slots(field: jax.Array) -> jax.Array:
    """[page, row, pack, lane] as [page, slot, head, lane] of one head; of the slots those that pad a page are last."""
    pages, rows, pack, lane = field.shape
    return field.reshape(pages, rows * pack, 1, lane)


SHORT = 32
"""Rows of bytes in a tile: as many slots of a long page are brought at a time."""


def _short_pages(field: jax.Array) -> jax.Array:
    """Pages of whole tiles, or of the most slots that cut both; a slot keeps its number among all."""
    pages, slots, row = field.shape
    short = gcd(slots, SHORT)
    return field.reshape(pages * (slots // short), short, row)


LAYOUTS: dict[str, Row] = {
    "nhd": Row(_separate(0, 1)),
    "hnd": Row(_separate(0, 2)),
    "heads_first": Row(_separate(1, 2)),
    "token_slots": Row(_separate(0, 1), fold=_one_slot_a_page),
    "interleaved": Row((Stream("kv", 0, 1, half=0), Stream("kv", 0, 1, half=1)), fold=pair_rows),
    "packed": Row((Stream("kv", 0, 1),), join=_packed, part=_unpacked),
    "split_x": Row(_separate(0, 3)),  # of K [page, head, chunk, slot, x] and of V [page, head, dim, slot] alike
    "code_rows": Row((Stream("codes", 0, 1),)),
    "code_columns": Row((Stream("codes", 0, 2),)),
    "pq_rows": Row(_separate(0, 1)),
    "pq_columns": Row((Stream("k", 0, 1), Stream("v", 0, 2))),
    "pq_heads": Row(_separate(0, 1), fold=_short_pages),
    "beside_hnd_diffkv": Row((Stream("kv", 0, 2, cut=_front), Stream("kv", 0, 2, cut=_behind))),
    "mla_aligned": Row(
        (Stream("kv_cache", 0, 1, cut=_latent_and_rope), Stream("kv_cache", 0, 1, cut=_latent)), fold=_packed_slots
    ),
}

Cache = Mapping[str, jax.Array]
T = TypeVar("T")


def by_stream(layout: str, fields: Mapping[str, T]) -> list[tuple[Stream, T]]:
    """The streams of a layout, each with what lies under the name of its field."""
    return [(stream, fields[stream.field]) for stream in LAYOUTS[layout].streams]


def page_size(layout: str, fields: Mapping[str, jax.Array]) -> int:
    """How many slots a page of these fields has."""
    stream, field = by_stream(layout, fields)[0]
    return field.shape[stream.slot]


def sizes(layout: str, cache: Cache) -> tuple[int, int, int]:
    """num_pages, slots of a page (those that pad it too), num_kv_heads of a cache."""
    fields = jax.eval_shape(partial(fold, layout), dict(cache))
    stream, field = by_stream(layout, fields)[0]
    return field.shape[stream.page], field.shape[stream.slot], stream.row_shape(field.shape)[0]


def fold(layout: str, cache: Cache) -> dict[str, jax.Array]:
    """The cache's fields as `by_stream` addresses them."""
    return {name: LAYOUTS[layout].fold(field) for name, field in cache.items()}
