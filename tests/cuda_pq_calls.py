"""Calls of the operations on codes of the `cuda` adapter from numpy to numpy, and data for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvconform.specs.dtypes import DTYPES
from kvconform.tests.cuda_calls import Array, call


def packed(codes: Array, dtype: str) -> Array:
    """A byte a code, or two codes a byte along the last axis, the even one low."""
    return codes if dtype == "uint8" else codes[..., 0::2] | codes[..., 1::2] << 4


def unpacked(codes: Array, dtype: str) -> Array:
    return codes if dtype == "uint8" else np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)


def in_pages(codes: Array, layout: str, side: str) -> Array:
    """[page, slot, subspace] as the array of a layout has its axes, and back."""
    return codes.swapaxes(1, 2) if (layout, side) == ("pq_columns", "v") else codes


def decoded(codes: Array, books: Array) -> Array:
    return books[np.arange(len(books)), codes].reshape(*codes.shape[:-1], len(books) * books.shape[-1])


def nearest(x: Array, books: Array) -> Array:
    """By the definition, in float64; the first of several."""
    pieces = x.astype(np.float64).reshape(*x.shape[:-1], len(books), 1, -1)
    return np.asarray(((pieces - books.astype(np.float64)) ** 2).sum(-1).argmin(-1).astype(np.uint8))


@dataclass(frozen=True)
class Made:
    """Sizes of a call of pq_decode_attention, and what its arrays are drawn from."""

    layout: str = "pq_rows"
    codes: str = "uint8"
    dtype: str = "float16"
    subspaces: int = 4
    sub_dim: int = 2
    centroids: int = 16
    page_size: int = 4
    heads: int = 2
    group: int = 2
    lens: tuple[int, ...] = (9, 0, 22, 1)
    residual: tuple[int, ...] = (3, 0, 0, 5)
    splits: int | None = 2
    index: str = "int32"
    strides: str = "contiguous"
    seed: int = 0

    @property
    def head_dim(self) -> int:
        return self.subspaces * self.sub_dim


@dataclass(frozen=True)
class Drawn:
    """Arguments in the order of the operation, and the codes and vectors that they mean, sequence by sequence."""

    arguments: tuple[Any, ...]
    k: list[Array]
    v: list[Array]


def drawn(made: Made) -> Drawn:
    rng = np.random.default_rng(made.seed)
    seqs, dims = len(made.lens), made.head_dim

    def floats(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(DTYPES[made.dtype])

    q = floats(seqs, made.heads * made.group, dims)
    books = [floats(made.subspaces, made.centroids, made.sub_dim) for _ in "kv"]
    residual = [floats(seqs, max(made.residual) + 1, made.heads, dims) for _ in "kv"]
    pages_each = -(-max(made.lens) // made.page_size)
    if made.layout == "pq_heads":
        pages, table = seqs * made.heads, np.arange(seqs * made.heads).reshape(seqs, made.heads, 1)
    else:
        pages = seqs * made.heads * pages_each + 2
        order = rng.permutation(pages)[: seqs * made.heads * pages_each]
        table = order.reshape(seqs, made.heads, pages_each)
        dead = np.arange(pages_each) >= -(-np.array(made.lens)[:, None] // made.page_size)
        table = np.where(dead[:, None], -1, table)
    pools = [
        rng.integers(0, 256 if made.codes == "uint8" else 16, (pages, made.page_size, made.subspaces)) for _ in "kv"
    ]
    alive: list[list[Array]] = [[], []]
    for seq, length in enumerate(made.lens):
        position = np.arange(length)
        page, slot = table[seq][:, position // made.page_size], position % made.page_size
        for pool, book, newest, of in zip(pools, books, residual, alive, strict=True):
            live = rng.integers(0, made.centroids, (made.heads, length, made.subspaces))
            pool[page, slot] = live
            newest[seq, made.residual[seq] :] = np.nan
            rows = newest[seq, : made.residual[seq]].swapaxes(0, 1)
            of.append(np.concatenate([decoded(live, book), rows], 1).astype(np.float64))
    cache = {
        side: packed(np.ascontiguousarray(in_pages(pool.astype(np.uint8), made.layout, side)), made.codes)
        for side, pool in zip("kv", pools, strict=True)
    }
    table, lens, residual_lens = (np.asarray(a, made.index) for a in (table, made.lens, made.residual))
    return Drawn((q, cache, *books, table, lens, *residual, residual_lens), *alive)


def attended(made: Made, given: Drawn, sm_scale: float = 0.5, **changed: Any) -> tuple[Array, Array]:
    told = {"layout": made.layout, "dtype": made.codes, "page_size": made.page_size, "num_subspaces": made.subspaces}
    told |= {"sm_scale": sm_scale, "num_splits": made.splits, "strides": made.strides, **changed}
    out, lse = call("pq_decode_attention", *given.arguments, **told)
    return out, lse


CALLS = {
    "rows": Made(),
    "columns": Made(layout="pq_columns"),
    "contiguous": Made(layout="pq_heads", page_size=22),
    "rows in quads": Made(subspaces=16, page_size=5),
    "columns in quads": Made(layout="pq_columns", page_size=16, lens=(40, 0, 17, 100), splits=3),
    "nibbles by rows": Made(codes="uint4"),
    "nibbles by columns": Made(layout="pq_columns", codes="uint4", page_size=6),
    "nibbles by rows in quads": Made(codes="uint4", subspaces=32, dtype="bfloat16"),
    "nibbles by columns in quads": Made(layout="pq_columns", codes="uint4", page_size=32, lens=(70, 0, 5, 33)),
    "nibbles, contiguous": Made(layout="pq_heads", codes="uint4", page_size=22, index="int64"),
    "one subspace": Made(subspaces=1, sub_dim=8, centroids=3, group=1, dtype="float32"),
    "three of one dim": Made(subspaces=3, sub_dim=1, centroids=2, group=3, page_size=1),
    "more heads than a block has": Made(group=5, sub_dim=3),
    "more dims than threads": Made(subspaces=48, sub_dim=3, layout="pq_columns", page_size=16, splits=1),
    "256 centroids": Made(centroids=256, dtype="bfloat16"),
    "tile after tile": Made(lens=(300, 0, 131, 128), page_size=16, layout="pq_columns", splits=1),
    "more splits than tokens": Made(splits=32, lens=(9, 0, 40, 1)),
    "nothing in codes": Made(lens=(0, 0, 0, 0)),
    "no residual": Made(residual=(0, 0, 0, 0), dtype="float32"),
    "wide indices": Made(index="int64", dtype="float32"),
    "strided": Made(strides="all", subspaces=16),
    "strided columns": Made(strides="outer", layout="pq_columns", page_size=16, dtype="float32"),
}


def integers(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    """Small integers: differences, squares and sums of them are exact, and ties are many."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(DTYPES[dtype])


def every_operation_on_codes() -> None:
    """Each operation on each layout, with codes of either width and pages of which quads are whole and are not."""
    for made in CALLS.values():
        given = drawn(made)
        attended(made, given)
        told = {"dtype": made.codes, "num_subspaces": made.subspaces, "strides": made.strides}
        _, cache, k_books, v_books, *_ = given.arguments
        x = integers((5, made.heads, made.head_dim), made.dtype, 1)
        mapping = np.arange(5 * made.heads, dtype=made.index).reshape(5, made.heads)
        mapping[mapping >= len(cache["k"]) * made.page_size] = -1
        call("pq_decode", call("pq_encode", x, k_books, **told), k_books, **told)
        paged = {**told, "layout": made.layout, "page_size": made.page_size}
        call("pq_append", cache, x, x, k_books, v_books, mapping, **paged)
