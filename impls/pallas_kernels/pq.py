"""Product quantisation: nearest centroids, pages of codes, attention from a table of q against the centroids.

What a lookup would do is a product with a one-hot matrix, which the matrix unit does: such a product picks one number
and adds zeros to it, so it is exact. It spreads bytes to codes, finds scores in the table, and centroids of codes; a
code without a centroid picks nothing: 0. Subspaces come first everywhere, and tokens last, where they fill lanes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kvconform.impls.pallas_kernels.decode import EXACT, State, result, seen
from kvconform.impls.pallas_kernels.launch import compiled
from kvconform.impls.pallas_kernels.layouts import Cache, Ref, Scalar, Stream, by_stream, fold
from kvconform.impls.pallas_kernels.movement import IN_HBM, across

SUBSPACES, TOKENS = 8, 128
"""As many are encoded or decoded at a time: the rows and the lanes of a tile."""


def _one_hot(codes: jax.Array, num_centroids: int) -> jax.Array:
    """float32 [subspace, centroid, token] of codes [subspace, token]: 1 where the token has the centroid."""
    shape = (codes.shape[0], num_centroids, codes.shape[1])
    return (codes[:, None] == lax.broadcasted_iota(jnp.int32, shape, 1)).astype(jnp.float32)


def _product(axes: str, one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.einsum(axes, one, other, precision=EXACT, preferred_element_type=jnp.float32)


def per_byte(dtype: str) -> int:
    """How many codes of a type lie in a byte."""
    return {"uint8": 1, "uint4": 2}[dtype]


def num_subspaces(head_dim: int, codebooks: jax.Array, dtype: str) -> int:
    """How many subspaces some codebooks cut heads into; raises ValueError where they do not, or codes have no room."""
    subspaces, num_centroids, sub_dim = codebooks.shape
    if subspaces * sub_dim != head_dim:
        raise ValueError(f"{subspaces} subspaces of {sub_dim} numbers do not make a head of {head_dim}")
    if num_centroids > 1 << 8 // per_byte(dtype) or subspaces % per_byte(dtype):
        raise ValueError(f"no {dtype} codes of {subspaces} subspaces of {num_centroids} centroids")
    return int(subspaces)


def packed(codes: jax.Array, dtype: str) -> jax.Array:
    """Codes one a byte [..., subspace] as a type of them stores them: of two in a byte the first is in the low half."""
    return codes if per_byte(dtype) == 1 else codes[..., 0::2] | codes[..., 1::2] << 4


def unpacked(array: jax.Array, dtype: str) -> jax.Array:
    """The inverse of packed."""
    if per_byte(dtype) == 1:
        return array
    return jnp.stack([array & 15, array >> 4], axis=-1).reshape(*array.shape[:-1], 2 * array.shape[-1])


def _blocks(subspaces: int, num_tokens: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many subspaces and tokens one program takes, and how many programs that makes along both."""
    size = min(subspaces, SUBSPACES), min(num_tokens, TOKENS)
    return size, (pl.cdiv(subspaces, size[0]), pl.cdiv(num_tokens, size[1]))


# --- vectors to codes, and back


@compiled(static_argnames="interpret")
def encode(x: jax.Array, codebooks: jax.Array, *, interpret: Any) -> jax.Array:
    """The nearest centroid of each subspace, by |c|^2 - 2 x . c; of several as near the lowest. Of NaN: any.

    x           float32 [side, num_tokens, num_subspaces, sub_dim]
    codebooks   float32 [side, num_subspaces, num_centroids, sub_dim]
    returns     uint8 [side, num_tokens, num_subspaces]
    """
    x = jnp.transpose(x, (0, 2, 3, 1))
    sides, subspaces, sub_dim, num_tokens = x.shape
    num_centroids = codebooks.shape[2]
    (rows, lanes), blocks = _blocks(subspaces, num_tokens)

    def kernel(x_ref: Ref, book_ref: Ref, codes_ref: Ref) -> None:
        book = book_ref[...]
        distance = jnp.square(book).sum(axis=2, keepdims=True) - 2 * _product("mcd,mdt->mct", book, x_ref[...])
        nearest = distance == distance.min(axis=1, keepdims=True)
        number = lax.broadcasted_iota(jnp.int32, distance.shape, 1).astype(jnp.float32)  # reduced as floats are
        codes_ref[...] = jnp.where(nearest, number, num_centroids - 1.0).min(axis=1).astype(jnp.int32)

    codes = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((sides, subspaces, num_tokens), jnp.int32),
        grid=(sides, *blocks),
        in_specs=[
            pl.BlockSpec((None, rows, sub_dim, lanes), lambda side, m, block: (side, m, 0, block)),
            pl.BlockSpec((None, rows, num_centroids, sub_dim), lambda side, m, block: (side, m, 0, 0)),
        ],
        out_specs=pl.BlockSpec((None, rows, lanes), lambda side, m, block: (side, m, block)),
        interpret=interpret,
    )(x, codebooks)
    return jnp.swapaxes(codes, 1, 2).astype(jnp.uint8)


@compiled(static_argnames="interpret")
def decode(codes: jax.Array, codebooks: jax.Array, *, interpret: Any) -> jax.Array:
    """Centroids side by side, bit for bit: the matrix unit picks their bytes, which are small integers to it.

    codes       uint8 [num_tokens, num_subspaces], one a byte
    codebooks   bits [num_subspaces, num_centroids, sub_dim]
    returns     bits [num_tokens, num_subspaces, sub_dim]
    """
    octets = lax.bitcast_convert_type(codebooks, jnp.uint8)  # [subspace, centroid, dim, byte]
    subspaces, num_centroids, sub_dim, width = octets.shape
    planes = jnp.swapaxes(octets.reshape(subspaces, num_centroids, -1), 1, 2).astype(jnp.float32)
    codes = codes.T.astype(jnp.int32)
    (rows, lanes), blocks = _blocks(*codes.shape)

    def kernel(codes_ref: Ref, planes_ref: Ref, out_ref: Ref) -> None:
        one_hot = _one_hot(codes_ref[...], num_centroids)
        out_ref[...] = _product("mbc,mct->mbt", planes_ref[...], one_hot).astype(jnp.int32)

    found = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((subspaces, sub_dim * width, codes.shape[1]), jnp.int32),
        grid=blocks,
        in_specs=[
            pl.BlockSpec((rows, lanes), lambda m, block: (m, block)),
            pl.BlockSpec((rows, sub_dim * width, num_centroids), lambda m, block: (m, 0, 0)),
        ],
        out_specs=pl.BlockSpec((rows, sub_dim * width, lanes), lambda m, block: (m, 0, block)),
        interpret=interpret,
    )(codes, planes)
    found = jnp.transpose(found.astype(jnp.uint8), (2, 0, 1)).reshape(-1, subspaces, sub_dim, width)
    return lax.bitcast_convert_type(found, codebooks.dtype)


# --- pages of codes


def _pools(layout: str, cache: Cache, subspaces: int, dtype: str) -> list[tuple[Stream, jax.Array]]:
    """The pools of K and of V; raises ValueError unless their pages have room for so many subspaces."""
    sides = by_stream(layout, fold(layout, cache))
    for stream, pool in sides:
        axis = 3 - stream.slot  # of pages [slot, byte] the last one is packed, of pages [subspace, byte] slots are
        has = pool.shape[axis] * (per_byte(dtype) if axis == 2 else 1)
        if has != subspaces:
            raise ValueError(f"pages of {stream.field} of {has} subspaces in {dtype} for codes of {subspaces}")
    return sides


@compiled(static_argnames=("layout", "dtype", "interpret"))
def write(
    cache: Cache, codes: jax.Array, slot_mapping: jax.Array, *, layout: str, dtype: str, interpret: Any
) -> dict[str, jax.Array]:
    """Write each token's codes of K and of V to its slot; every other bit stays.

    cache         {pool: uint8} of the layout
    codes         uint8 [2, num_tokens, num_subspaces], one a byte
    slot_mapping  int32 [num_tokens]   page * page_size + slot; a token without a slot of the pools is skipped
    returns       the cache; the kernel writes in place into its own copy

    Pages are brought and taken back whole, which every tile allows: a page once for all tokens of it that follow each
    other. Of two tokens with one slot the later stays.
    """
    sides, per = _pools(layout, cache, codes.shape[-1], dtype), per_byte(dtype)
    rows, shared = [], []  # of each side: codes as its pages take them, and slots in one byte
    for (stream, _), one in zip(sides, codes, strict=True):
        is_row = stream.slot == 1
        rows.append((packed(one, dtype)[:, None] if is_row else one[:, :, None]).astype(jnp.int32))
        shared.append(1 if is_row else per)
    slots_a_page = sides[0][1].shape[1]
    num_slots = sides[0][1].shape[0] * slots_a_page
    num_tokens = len(slot_mapping)
    size, blocks = min(num_tokens, TOKENS), pl.cdiv(num_tokens, TOKENS)

    def kernel(slots: Ref, *refs: Ref) -> None:
        tokens, _, targets, buffers, (done,) = (refs[2 * i : 2 * i + 2] for i in range(5))
        first = pl.program_id(0) * size

        def pages(page: Scalar) -> list[Ref]:
            return [stream.page_of(ref, page) for (stream, _), ref in zip(sides, targets, strict=True)]

        def take_back(held: Scalar) -> None:
            pl.when(held >= 0)(lambda: across(buffers, pages(held), done))

        def put(token: Scalar, held: Scalar) -> Scalar:
            at = slots[first + token]
            page, slot = lax.div(at, slots_a_page), lax.rem(at, slots_a_page)
            live = (at >= 0) & (at < num_slots)

            @pl.when(live & (page != held))
            def _() -> None:
                take_back(held)
                across(pages(page), buffers, done)

            @pl.when(live)
            def _() -> None:
                for (stream, _), new, several, buffer in zip(sides, tokens, shared, buffers, strict=True):
                    before, bits = buffer[...].astype(jnp.int32), 8 // several
                    shift = bits * lax.rem(slot, several)
                    others = before & ~(((1 << bits) - 1) << shift)
                    place = lax.broadcasted_iota(jnp.int32, before.shape, stream.slot - 1)
                    after = jnp.where(place == lax.div(slot, several), others | new[token] << shift, before)
                    buffer[...] = after.astype(jnp.uint8)

            return jnp.where(live, page, held)

        take_back(lax.fori_loop(0, jnp.minimum(size, num_tokens - first), put, jnp.int32(-1)))

    written = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(pool.shape, pool.dtype) for _, pool in sides],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(blocks,),
            in_specs=[
                *(pl.BlockSpec((size, *side.shape[1:]), lambda block, *_: (block, 0, 0)) for side in rows),
                IN_HBM,
                IN_HBM,
            ],
            out_specs=[IN_HBM, IN_HBM],
            scratch_shapes=[
                *(pltpu.VMEM(stream.page_shape(pool.shape), pool.dtype) for stream, pool in sides),
                pltpu.SemaphoreType.DMA,
            ],
        ),
        input_output_aliases={3: 0, 4: 1},
        interpret=interpret,
    )(slot_mapping, *rows, *(pool for _, pool in sides))
    return {
        stream.field: pool.reshape(cache[stream.field].shape) for (stream, _), pool in zip(sides, written, strict=True)
    }


# --- attention


def _codes(page: jax.Array, slot_axis: int, per: int) -> jax.Array:
    """int32 [num_subspaces, slot] of a page of bytes: [slot, byte] where slots are its axis 0, or [subspace, byte]."""
    octets = page.astype(jnp.int32).astype(jnp.float32)
    shape = (octets.shape[1] * per, octets.shape[1])
    code, octet = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    spread = (lax.div(code, per) == octet).astype(jnp.float32)
    found = _product("ab,cb->ac", *((spread, octets) if slot_axis == 0 else (octets, spread))).astype(jnp.int32)
    number = lax.broadcasted_iota(jnp.int32, found.shape, slot_axis)
    bits = 8 // per
    return lax.shift_right_logical(found, bits * lax.rem(number, per)) & ((1 << bits) - 1)


def _attended(state: State, scores: jax.Array, v: jax.Array) -> State:
    """The state after tokens with these scores [row, token] and values [subspace, dim, token]."""

    def mix(weight: jax.Array) -> jax.Array:
        return _product("mrt,mdt->mrd", jnp.broadcast_to(weight, (v.shape[0], *weight.shape)), v)

    return seen(state, scores, mix)


def _masked(scores: jax.Array, live: jax.Array, sm_scale: Scalar) -> jax.Array:
    """[row, token] of parts [subspace, row, token]; -inf where a token is none, whatever it holds."""
    return jnp.where(live, scores.sum(axis=0) * sm_scale, -jnp.inf)


@compiled(static_argnames=("layout", "dtype", "num_splits", "interpret"))
def attend(
    q: jax.Array,
    cache: Cache,
    codebooks: jax.Array,
    page_ids: jax.Array,
    kv_lens: jax.Array,
    residual: jax.Array,
    residual_lens: jax.Array,
    sm_scale: float,
    *,
    layout: str,
    dtype: str,
    num_splits: int,
    interpret: Any,
) -> tuple[jax.Array, jax.Array]:
    """Attend to each of `num_splits` runs of pages of every (sequence, kv head), and to its residual, on its own.

    q              float32 [num_seqs, num_q_heads, head_dim]
    cache          {pool: uint8} of the layout
    codebooks      float32 [2, num_subspaces, num_centroids, sub_dim] of K and of V
    page_ids       int32 [num_seqs, num_kv_heads, width]   entries beyond a sequence's pages are never read
    kv_lens        int32 [num_seqs]   slots beyond them may hold anything
    residual       float32 [2, num_seqs, capacity, num_kv_heads, head_dim] of K and of V
    residual_lens  int32 [num_seqs]   rows at and beyond them may hold anything, NaN included
    returns        out float32 [num_splits + 1, num_seqs, num_q_heads, head_dim], lse float32 without the last axis,
                   natural; of a part without a token 0 and -inf
    """
    sides, per = _pools(layout, cache, codebooks.shape[1], dtype), per_byte(dtype)
    short = sides[0][1].shape[0] // cache[sides[0][0].field].shape[0]
    page_ids = (page_ids[..., None] * short + jnp.arange(short)).reshape(-1, page_ids.shape[2] * short)
    slots_a_page = sides[0][1].shape[1]
    (num_seqs, num_q_heads, head_dim), capacity = q.shape, residual.shape[2]
    num_kv_heads, (_, subspaces, num_centroids, sub_dim) = residual.shape[3], codebooks.shape
    group, num_rows = num_q_heads // num_kv_heads, num_seqs * num_kv_heads  # a row: one kv head of one sequence
    cut = (subspaces, sub_dim)
    by_row = jnp.swapaxes(q.reshape(num_rows, group, *cut), 1, 2)
    left = jnp.transpose(residual.reshape(2, num_seqs, capacity, num_kv_heads, *cut), (0, 1, 3, 4, 5, 2))
    left = left.reshape(2, num_rows, *cut, capacity)
    if not capacity:
        left = jnp.zeros((2, num_rows, *cut, 1))  # a block holds something
    books = jnp.swapaxes(codebooks, 2, 3)

    def kernel(
        table: Ref, lens: Ref, left_lens: Ref, factor: Ref, q_ref: Ref, books_ref: Ref, left_ref: Ref, *refs: Ref
    ) -> None:
        sources, (out, lse), buffers, (done,) = (refs[2 * i : 2 * i + 2] for i in range(4))
        row, part = pl.program_id(0), pl.program_id(1)
        nothing = jnp.full((group, 1), -jnp.inf), jnp.zeros((group, 1)), jnp.zeros((subspaces, group, sub_dim))

        def finish(state: State) -> None:
            out[...], lse[...] = result(state)

        @pl.when(part < num_splits)
        def _() -> None:
            k_book, v_book = books_ref[0], books_ref[1]
            lookup = _product("mrd,mdc->mrc", q_ref[...], k_book)
            num_pages = pl.cdiv(lens[row], slots_a_page)
            share = pl.cdiv(num_pages, num_splits)
            first = jnp.minimum(part * share, num_pages)
            end = jnp.minimum(first + share, num_pages)

            def start(i: Scalar) -> None:
                for (stream, _), source, buffer in zip(sides, sources, buffers, strict=True):
                    page = stream.page_of(source, table[row, i])
                    pltpu.make_async_copy(page, buffer.at[i % 2], done.at[i % 2]).start()

            def arrived(i: Scalar) -> list[jax.Array]:
                """A one-hot matrix [subspace, centroid, slot] for K, and one for V."""
                for buffer in buffers:  # a wait takes nothing from its ends but their size
                    pltpu.make_async_copy(buffer.at[i % 2], buffer.at[i % 2], done.at[i % 2]).wait()
                pages = zip(sides, buffers, strict=True)
                codes = [_codes(buffer[i % 2], stream.slot - 1, per) for (stream, _), buffer in pages]
                return [_one_hot(side, num_centroids) for side in codes]

            def step(i: Scalar, state: State) -> State:
                pl.when(i + 1 < end)(lambda: start(i + 1))
                k, v = arrived(i)
                slot = i * slots_a_page + lax.broadcasted_iota(jnp.int32, (group, slots_a_page), 1)
                scores = _masked(_product("mrc,mct->mrt", lookup, k), slot < lens[row], factor[0])
                return _attended(state, scores, _product("mdc,mct->mdt", v_book, v))

            pl.when(first < end)(lambda: start(first))
            finish(lax.fori_loop(first, end, step, nothing))

        @pl.when(part == num_splits)
        def _() -> None:
            k, v = left_ref[0], left_ref[1]
            live = [
                lax.broadcasted_iota(jnp.int32, s, len(s) - 1) < left_lens[row] for s in ((group, k.shape[2]), v.shape)
            ]
            scores = _masked(_product("mrd,mdt->mrt", q_ref[...], k), live[0], factor[0])
            finish(_attended(nothing, scores, jnp.where(live[1], v, 0.0)))  # 0 * NaN is NaN

    def of_row(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda row, part, *_: (row, *(0 for _ in shape)))

    def of_part(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *shape), lambda row, part, *_: (part, row, *(0 for _ in shape)))

    out, lse = pl.pallas_call(
        kernel,
        out_shape=[
            jax.ShapeDtypeStruct((num_splits + 1, num_rows, subspaces, group, sub_dim), jnp.float32),
            jax.ShapeDtypeStruct((num_splits + 1, num_rows, group, 1), jnp.float32),
        ],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(num_rows, num_splits + 1),
            in_specs=[
                of_row(subspaces, group, sub_dim),
                pl.BlockSpec(memory_space=pltpu.VMEM),
                pl.BlockSpec((2, None, *left.shape[2:]), lambda row, part, *_: (0, row, 0, 0, 0)),
                IN_HBM,
                IN_HBM,
            ],
            out_specs=[of_part(subspaces, group, sub_dim), of_part(group, 1)],
            scratch_shapes=[
                *(pltpu.VMEM((2, *stream.page_shape(pool.shape)), pool.dtype) for stream, pool in sides),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        interpret=interpret,
    )(
        page_ids,
        jnp.repeat(kv_lens, num_kv_heads),
        jnp.repeat(residual_lens, num_kv_heads),
        jnp.full(1, sm_scale, jnp.float32),
        by_row,
        books,
        left,
        *(pool for _, pool in sides),
    )
    out = jnp.swapaxes(out, 2, 3).reshape(num_splits + 1, num_seqs, num_q_heads, head_dim)
    return out, lse.reshape(out.shape[:3])
