"""Data movement by DMA alone: merge and extract, append to a paged cache, gather from one, copies of its pages.

No vector unit sees an element, and every element crosses as an unsigned integer of its width, so the bits arrive as
they left: NaN payloads, -0.0 and subnormals too. (Mosaic takes no float16 operand: another reason.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kvconform.impls.pallas_kernels.launch import compiled
from kvconform.impls.pallas_kernels.layouts import LAYOUTS, Cache, Ref, Scalar, by_stream, fold, page_size, pair_rows

IN_HBM = pl.BlockSpec(memory_space=pl.ANY)
UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _bits(array: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(array, UNSIGNED[array.dtype.itemsize])


def across(sources: Sequence[Ref], targets: Sequence[Ref], done: Ref) -> None:
    """Start one DMA from each source to its target, then wait for all."""
    copies = [pltpu.make_async_copy(*ends, done) for ends in zip(sources, targets, strict=True)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.wait()


@compiled(static_argnames="interpret")
def merge_kv(k: jax.Array, v: jax.Array, *, interpret: Any) -> jax.Array:
    """Interleave K and V by head.

    k, v      [num_tokens, num_kv_heads, head_dim]
    returns   [num_tokens, 2 * num_kv_heads, head_dim], rows K0 V0 K1 V1 ...
    """
    num_tokens, num_kv_heads, head_dim = k.shape

    def kernel(k_ref: Ref, v_ref: Ref, kv_ref: Ref, done: Ref) -> None:
        halves = [kv_ref.at[:, :, pl.ds(half * head_dim, head_dim)] for half in (0, 1)]
        across((k_ref, v_ref), halves, done)

    kv = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((num_tokens, num_kv_heads, 2 * head_dim), _bits(k).dtype),
        in_specs=[IN_HBM, IN_HBM],
        out_specs=IN_HBM,
        scratch_shapes=[pltpu.SemaphoreType.DMA],
        interpret=interpret,
    )(_bits(k), _bits(v))
    return lax.bitcast_convert_type(kv, k.dtype).reshape(num_tokens, 2 * num_kv_heads, head_dim)


@compiled(static_argnames=("half", "interpret"))
def extract(kv: jax.Array, *, half: int, interpret: Any) -> jax.Array:
    """Take K (half 0) or V (half 1) out of interleaved rows.

    kv        [num_tokens, 2 * num_kv_heads, head_dim], rows K0 V0 K1 V1 ...
    returns   [num_tokens, num_kv_heads, head_dim]
    """
    num_tokens, rows, head_dim = kv.shape

    def kernel(kv_ref: Ref, out_ref: Ref, done: Ref) -> None:
        across([kv_ref.at[:, :, pl.ds(half * head_dim, head_dim)]], [out_ref], done)

    out = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((num_tokens, rows // 2, head_dim), _bits(kv).dtype),
        in_specs=[IN_HBM],
        out_specs=IN_HBM,
        scratch_shapes=[pltpu.SemaphoreType.DMA],
        interpret=interpret,
    )(_bits(pair_rows(kv)))
    return lax.bitcast_convert_type(out, kv.dtype)


@compiled(static_argnames=("layout", "interpret"))
def append(
    cache: Cache, tokens: tuple[jax.Array, ...], slot_mapping: jax.Array, *, layout: str, interpret: Any
) -> dict[str, jax.Array]:
    """Write each token's rows to its slot; every other byte stays.

    cache         {field: array} of the layout
    tokens        k and v, or codes: [num_tokens, ...] each, of the cache's dtype
    slot_mapping  int32 [num_tokens]   page * page_size + slot; a token without a slot of the cache is skipped
    returns       the cache; the kernel writes in place into its own copy, or into the caller's if that was donated

    One token is in flight at a time: of two tokens with one slot the later stays.
    """
    fields = {name: _bits(field) for name, field in fold(layout, cache).items()}
    slots_a_page = page_size(layout, fields)
    stream, field = by_stream(layout, fields)[0]
    num_slots = field.shape[stream.page] * slots_a_page
    shapes = [stream.row_shape(field.shape) for stream, field in by_stream(layout, fields)]
    rows = LAYOUTS[layout].join(tuple(map(_bits, tokens)), shapes)

    def kernel(slots: Ref, *refs: Ref) -> None:
        sources, targets, done = refs[: len(rows)], refs[len(rows) + len(fields) : -1], refs[-1]
        streams = by_stream(layout, dict(zip(fields, targets, strict=True)))

        def write(token: Scalar, carry: None) -> None:
            at = slots[token]
            page, slot = at // slots_a_page, at % slots_a_page

            @pl.when((at >= 0) & (at < num_slots))
            def _() -> None:
                across([rows.at[token] for rows in sources], [side.row(ref, page, slot) for side, ref in streams], done)

        lax.fori_loop(0, slots.shape[0], write, None)

    written = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(field.shape, field.dtype) for field in fields.values()],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            in_specs=[IN_HBM] * (len(rows) + len(fields)),
            out_specs=[IN_HBM] * len(fields),
            scratch_shapes=[pltpu.SemaphoreType.DMA],
        ),
        input_output_aliases={1 + len(rows) + i: i for i in range(len(fields))},
        interpret=interpret,
    )(slot_mapping, *rows, *fields.values())
    return {
        name: lax.bitcast_convert_type(field, cache[name].dtype).reshape(cache[name].shape)
        for name, field in zip(fields, written, strict=True)
    }


@compiled(static_argnames=("layout", "token", "interpret"))
def gather(
    cache: Cache, block_table: jax.Array, kv_lens: jax.Array, *, layout: str, token: tuple[int, ...], interpret: Any
) -> tuple[jax.Array, ...]:
    """Collect the rows of all sequences, one sequence after another.

    cache        {field: array} of the layout
    block_table  int32 [num_seqs, width]   entries beyond a sequence's pages are never read
    kv_lens      int32 [num_seqs]
    token        shape of one token of K where the cache's fields do not tell it
    returns      k and v, or codes: [num_seqs * width * page_size, ...] each; rows from sum(kv_lens) on are not written
    """
    fields = {name: _bits(field) for name, field in fold(layout, cache).items()}
    slots_a_page = page_size(layout, fields)
    capacity = block_table.size * slots_a_page

    def kernel(table: Ref, lens: Ref, *refs: Ref) -> None:
        streams = by_stream(layout, dict(zip(fields, refs, strict=False)))
        targets, done = refs[len(fields) : -1], refs[-1]

        def sequence(seq: Scalar, first_row: Scalar) -> Scalar:
            kv_len = lens[seq]

            def start_page(i: Scalar, carry: None) -> None:
                page, before = table[seq, i], i * slots_a_page

                def start(slot: Scalar, carry: None) -> None:
                    for (stream, source), target in zip(streams, targets, strict=True):
                        row = target.at[first_row + before + slot]
                        pltpu.make_async_copy(stream.row(source, page, slot), row, done).start()

                lax.fori_loop(0, jnp.minimum(slots_a_page, kv_len - before), start, None)

            def wait(token: Scalar, carry: None) -> None:
                for target in targets:  # a wait takes nothing from its ends but their size
                    pltpu.make_async_copy(target.at[0], target.at[0], done).wait()

            lax.fori_loop(0, pl.cdiv(kv_len, slots_a_page), start_page, None)
            lax.fori_loop(0, kv_len, wait, None)
            return first_row + kv_len

        lax.fori_loop(0, lens.shape[0], sequence, 0)

    shapes = [
        jax.ShapeDtypeStruct((capacity, *stream.row_shape(field.shape)), field.dtype)
        for stream, field in by_stream(layout, fields)
    ]
    gathered = pl.pallas_call(
        kernel,
        out_shape=shapes,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            in_specs=[IN_HBM] * len(fields),
            out_specs=[IN_HBM] * len(shapes),
            scratch_shapes=[pltpu.SemaphoreType.DMA],
        ),
        interpret=interpret,
    )(block_table, kv_lens, *fields.values())
    dtype = next(iter(cache.values())).dtype
    return tuple(lax.bitcast_convert_type(side, dtype) for side in LAYOUTS[layout].part(tuple(gathered), token))


@compiled(static_argnames=("layout", "interpret"))
def copy_pages(cache: Cache, page_mapping: jax.Array, *, layout: str, interpret: Any) -> dict[str, jax.Array]:
    """Give each target page what its source page held before the call; every other byte stays.

    cache         {field: array} of the layout
    page_mapping  int32 [num_pairs, 2]   source, target; pages may be swapped
    returns       the cache

    The kernel reads the caller's cache and writes to a copy of it: no target is read. A donated one is copied, too.
    """
    fields = {name: _bits(field) for name, field in cache.items()}
    paging = {stream.field: stream for stream in LAYOUTS[layout].streams}

    def kernel(from_pages: Ref, to_pages: Ref, *refs: Ref) -> None:
        sources, targets, done = refs[: len(fields)], refs[2 * len(fields) : -1], refs[-1]

        def copy(pair: Scalar, carry: None) -> None:
            pages = [
                [paging[name].page_of(ref, at[pair]) for name, ref in zip(fields, side, strict=True)]
                for side, at in ((sources, from_pages), (targets, to_pages))
            ]
            across(*pages, done)

        lax.fori_loop(0, from_pages.shape[0], copy, None)

    written = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(field.shape, field.dtype) for field in fields.values()],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            in_specs=[IN_HBM] * (2 * len(fields)),
            out_specs=[IN_HBM] * len(fields),
            scratch_shapes=[pltpu.SemaphoreType.DMA],
        ),
        input_output_aliases={2 + len(fields) + i: i for i in range(len(fields))},
        interpret=interpret,
    )(page_mapping[:, 0], page_mapping[:, 1], *fields.values(), *fields.values())
    return {
        name: lax.bitcast_convert_type(field, cache[name].dtype) for name, field in zip(fields, written, strict=True)
    }
