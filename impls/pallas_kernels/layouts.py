"""How the kernels address a paged cache: for K and for V a field, its page axis and its slot axis.

One index expression serves every layout: what remains of a field when its page and its slot are fixed is the row of one
token, and what remains when only its page is fixed is what one DMA brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax.experimental import pallas as pl

Ref = Any  # a Pallas reference, or the part of one that `.at[...]` selects
Scalar = jax.Array


@dataclass(frozen=True)
class Stream:
    """K or V in a cache.

    field   name of the array in the cache
    page    its page axis
    slot    its slot axis
    half    None: all of the last axis; 0 or 1: its first or second half (of an interleaved field as `fold` leaves it)
    """

    field: str
    page: int
    slot: int
    half: int | None = None

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


def _separate(page: int, slot: int) -> tuple[Stream, ...]:
    return Stream("k", page, slot), Stream("v", page, slot)


LAYOUTS: dict[str, tuple[Stream, ...]] = {
    "nhd": _separate(0, 1),
    "hnd": _separate(0, 2),
    "heads_first": _separate(1, 2),
    "interleaved": (Stream("kv", 0, 1, half=0), Stream("kv", 0, 1, half=1)),
    "split_x": _separate(0, 3),  # of K [page, head, chunk, slot, x] and of V [page, head, dim, slot] alike
    "code_rows": (Stream("codes", 0, 1),),
    "code_columns": (Stream("codes", 0, 2),),
}
"""Layout -> its K stream and, where it has values, its V stream."""

Cache = Mapping[str, jax.Array]
T = TypeVar("T")


def by_stream(layout: str, fields: Mapping[str, T]) -> list[tuple[Stream, T]]:
    """K, then V where the layout has values, each with what lies under the name of its field."""
    return [(stream, fields[stream.field]) for stream in LAYOUTS[layout]]


def page_size(layout: str, fields: Mapping[str, jax.Array]) -> int:
    """How many slots a page of these fields has."""
    stream, field = by_stream(layout, fields)[0]
    return field.shape[stream.slot]


def fold(layout: str, cache: Cache) -> dict[str, jax.Array]:
    """The cache with K and V of a head side by side: rows K0 V0 K1 V1 ... of dim become rows K0V0 K1V1 ... of 2 * dim.

    It moves nothing, and it makes of every second row, which no DMA can address, a half that one can.
    """
    if layout != "interleaved":
        return dict(cache)
    return {name: pair_rows(field) for name, field in cache.items()}


def pair_rows(kv: jax.Array) -> jax.Array:
    """[..., 2 * head, dim] seen as [..., head, 2 * dim]: the halves of a row are K and V of one head."""
    *outer, rows, dim = kv.shape
    return kv.reshape(*outer, rows // 2, 2 * dim)
