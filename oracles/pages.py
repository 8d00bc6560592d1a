"""Whole pages: copies, forks, shards of the heads, and pools too large to be looked at twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvconform.oracles import memory, paged
from kvconform.oracles.memory import Cache
from kvconform.oracles.verdict import Exact, Expected
from kvconform.specs import data, pattern
from kvconform.specs.data import Array
from kvconform.specs.layouts import Layout, Part
from kvconform.specs.paged import PagedInputs

# --- copies


def expect_copy(
    inputs: PagedInputs, cache: Mapping[str, Array], pairs: Array, at_once: bool = True
) -> dict[str, Exact]:
    """Every byte of every buffer after copy_pages; padding of target pages is free.

    pairs     [num_pairs, 2] source and target
    at_once   all sources are read before anything is written; otherwise one pair after another, which is a mistake
    """
    row, sizes, dtype = inputs.row, inputs.sizes, inputs.case.dtype
    after = {name: array.copy() for name, array in cache.items()}
    free = {name: np.zeros(array.shape, bool) for name, array in cache.items()}
    for name, array in cache.items():
        padding = row.padding(name, {**sizes, "page": 1}, dtype)  # of one page: all are alike
        for source, target in pairs.tolist():
            to = row.page_of(name, target, sizes, dtype)
            after[name][to] = (array if at_once else after[name])[row.page_of(name, source, sizes, dtype)]
            free[name][to] = padding
    return paged.expect_cache(inputs, after, free)


COPIES = {
    "pages_are_copied_in_turn": "a page that was overwritten is copied on",
    "source_and_target_are_swapped": "the source is overwritten by the target",
    "first_pair_is_copied_alone": "pairs after the first are not copied",
}
"""Mistakes of copy_pages."""


def copy_mistakes(inputs: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Callable[[], Expected]]:
    """What wrong copies would leave in this cache."""
    pairs = inputs.page_mapping
    return {
        "pages_are_copied_in_turn/0": lambda: expect_copy(inputs, cache, pairs, at_once=False),
        "source_and_target_are_swapped/0": lambda: expect_copy(inputs, cache, pairs[:, ::-1]),
        "first_pair_is_copied_alone/0": lambda: expect_copy(inputs, cache, pairs[:1]),
    }


# --- forks


@dataclass(frozen=True)
class Fork:
    """A sequence that goes on from another one's tokens.

    copied   [0 or 1, 2] pages to be copied before the child writes
    newest   append's inputs: the child's own token, all other rows skipped
    child    gather's inputs, the child in the place of its parent
    """

    copied: Array
    newest: PagedInputs
    child: PagedInputs


def forked(inputs: PagedInputs) -> Fork:
    """Fork the longest sequence where it ends, or one token before where its table has no more room."""
    case = inputs.case
    seq = int(np.argmax(case.kv_lens))
    room = inputs.tables[0].shape[1] * case.page_size
    length = min(case.kv_lens[seq], room - 1)
    last, inside = divmod(length, case.page_size)
    owned = {int(table[s, i]) for table in inputs.tables for s, n in enumerate(inputs.pages_of) for i in range(n)}
    fresh = next(page for page in range(inputs.sizes["page"]) if page not in owned)
    parent = inputs.tables[0][seq]
    copied = np.array([[parent[last], fresh]] if inside else np.empty((0, 2)), case.index_dtype)

    child = PagedInputs(replace(case, kv_lens=(*case.kv_lens[:seq], length + 1, *case.kv_lens[seq + 1 :])))
    child.sizes = inputs.sizes
    table = inputs.tables[0].copy()
    table[seq, last] = fresh
    child.tables = (table,) * 2
    start = sum(case.kv_lens[:seq])
    own = replace(case, seed=case.seed ^ 1, kv_lens=case.kv_lens if case.capacity and inputs.num_rows else (1,))
    row = PagedInputs(own).tokens
    child.tokens = {
        name: np.concatenate([rows[: start + length], row[name][:1], rows[start + case.kv_lens[seq] :]])
        for name, rows in inputs.tokens.items()
    }
    newest = PagedInputs(own)
    to = np.full(newest.num_rows, -1, np.int64)
    to[:1] = fresh * case.page_size + inside
    newest.mappings = (to,) * 2
    return Fork(copied, newest, child)


# --- shards of the heads


@dataclass(frozen=True)
class Shard:
    """Some of the heads, as a cache of its own.

    heads    which of the whole
    inputs   the same tokens with these heads alone
    """

    heads: slice
    inputs: PagedInputs


def has_heads_outside(row: Layout) -> bool:
    """Whether the caches of shards can be joined along the heads: none lies behind a bar."""
    before_bars = [pattern.parse(one.line).steps[0].right[0] for one in row.fields.values()]
    return all(any("head" in dim for dim in dims) for dims in before_bars)


def cuts_heads(row: Layout) -> bool:
    """Whether caches of shards, joined along the heads, are that of all: heads are not padded either."""
    return "head" not in row.pad and has_heads_outside(row)


def shards(inputs: PagedInputs) -> list[Shard]:
    """Equal shards, as many as the least divisor of the number of heads says for which the row can be built."""
    case = inputs.case
    for count in range(2, case.num_kv_heads + 1):
        size = case.num_kv_heads // count
        if case.num_kv_heads % count == 0 and case.row.admits({**inputs.sizes, "head": size}, case.dtype):
            return [_shard(inputs, slice(i * size, (i + 1) * size)) for i in range(count)]
    return [_shard(inputs, slice(0, case.num_kv_heads))]


def _shard(inputs: PagedInputs, heads: slice) -> Shard:
    shard = PagedInputs(replace(inputs.case, num_kv_heads=heads.stop - heads.start))
    of = {part.name: part.axes.index("head") - 1 for part in inputs.row.parts}  # tokens have one axis for page and slot
    shard.tokens = {name: rows[(slice(None),) * of[name] + (heads,)] for name, rows in inputs.tokens.items()}
    return Shard(heads, shard)


def shard_of(inputs: PagedInputs, cache: Mapping[str, Array], shard: Shard) -> Cache:
    """A shard's own cache, cut out of one of all heads."""
    own, cut, dims = shard.inputs, {}, _dims_of_heads(inputs)
    for name, array in cache.items():
        size = inputs.row.shape(name, own.sizes, own.case.dtype)[dims[name]]
        start = size * shard.heads.start // own.case.num_kv_heads
        cut[name] = np.ascontiguousarray(np.take(array, range(start, start + size), axis=dims[name]))
    return cut


def joined(inputs: PagedInputs, caches: Sequence[Mapping[str, Array]]) -> Cache:
    """Caches of shards, concatenated along the dimension that has the heads: what several devices hold together."""
    dims = _dims_of_heads(inputs)
    return {name: np.concatenate([cache[name] for cache in caches], dims[name]) for name in caches[0]}


def _dims_of_heads(inputs: PagedInputs) -> dict[str, int]:
    """Of each buffer the dimension that grows with the number of heads."""
    row, dtype, dims = inputs.row, inputs.case.dtype, {}
    for name in row.buffers:
        few, many = (row.shape(name, {**inputs.sizes, "head": n}, dtype) for n in (_FEW_HEADS, 2 * _FEW_HEADS))
        dims[name] = next(dim for dim, (a, b) in enumerate(zip(few, many, strict=True)) if a != b)
    return dims


_FEW_HEADS = 16
"""As many heads as every row can be built with, padded or not."""


# --- pools beyond 31 bits


def filled_sparse(inputs: PagedInputs) -> Cache:
    """A sparse cache that holds the tokens, and zeros that take no memory everywhere else."""
    cache = inputs.dead("zero")
    for part in inputs.row.parts:
        at = _sparse_places(inputs, part)
        memory.store(inputs.row, cache, part, at, inputs.tokens[part.name], inputs.sizes, inputs.case.dtype)
    return cache


def unlike_sparse(inputs: PagedInputs, got: Cache) -> str:
    """What a sparse cache holds beside the tokens, or lacks of them; nothing where it is right. It is used up."""
    dtype = inputs.case.dtype
    for part in inputs.row.parts:
        at = _sparse_places(inputs, part)
        read, want = memory.load(inputs.row, got, part, at, inputs.sizes, dtype), inputs.tokens[part.name]
        if read.tobytes() != want.tobytes():
            slot = int(inputs.mappings[part.side][0])
            return f"{part.name}: the tokens from slot {slot} on are not where they belong"
        memory.store(inputs.row, got, part, at, np.zeros_like(want), inputs.sizes, dtype)
    return _not_empty(got, "no token belongs")


def sparse_pages(inputs: PagedInputs) -> Cache:
    """A sparse cache in which every page that copy_pages reads or writes holds bits of its own, and all else zeros."""
    cache = inputs.dead("zero")
    for name, array in cache.items():
        for page in np.unique(inputs.page_mapping).tolist():
            at = inputs.row.page_of(name, page, inputs.sizes, inputs.case.dtype)
            array[at] = _bits_of_page(inputs, name, page, array[at])
    return cache


def unlike_sparse_pages(inputs: PagedInputs, got: Cache) -> str:
    """What `sparse_pages` holds that copy_pages did not put there, or lacks; nothing where it is right. It is used up.

    Padding of target pages is free.
    """
    row, sizes, dtype = inputs.row, inputs.sizes, inputs.case.dtype
    source_of = {int(target): int(source) for source, target in inputs.page_mapping}
    for name, array in got.items():
        padding = row.padding(name, {**sizes, "page": 1}, dtype)
        for page in np.unique(inputs.page_mapping).tolist():
            here, source = array[row.page_of(name, page, sizes, dtype)], source_of.get(page, page)
            want = Exact(_bits_of_page(inputs, name, source, here), str, padding if page in source_of else None)
            if want.unmet(here).any():
                return f"{name}: page {page} does not hold what page {source} held before the call"
            here[...] = np.zeros_like(here)
    return _not_empty(got, "no page was copied to")


def _bits_of_page(inputs: PagedInputs, buffer: str, page: int, like: Array) -> Array:
    h = data.hashes(inputs.case.seed, f"page of {buffer}", np.asarray(page), *data.grid(*like.shape))
    return data.bits(like.dtype.name, h)


def _not_empty(cache: Cache, why: str) -> str:
    """Where a cache holds anything but zeros; `why` nothing may."""
    for name, array in cache.items():
        rest = array.reshape(-1).view(np.uint8)
        for start in range(0, rest.size, _LOOKED_AT):
            piece = rest[start : start + _LOOKED_AT]
            if piece.any():
                word, size = (start + int(np.flatnonzero(piece)[0])) // array.itemsize, array.size
                return f"{name}: something was written to element {word} of {size}, where {why}"
    return ""


def _sparse_places(inputs: PagedInputs, part: Part) -> tuple[Array, ...]:
    return paged.token_coordinates(inputs, part, inputs.mappings[part.side])


_LOOKED_AT = 1 << 26
"""Bytes that are looked at in one go."""
