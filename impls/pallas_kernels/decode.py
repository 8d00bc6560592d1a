"""Paged decode attention: pages brought by hand, two in flight, online softmax in float32.

One program serves all heads of one part of one sequence. The parts' results are merged by `merge.merge_states`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kvconform.impls.pallas_kernels.layouts import Cache, Ref, Scalar, Stream, by_stream, fold, page_size
from kvconform.impls.pallas_kernels.movement import IN_HBM

EXACT = lax.Precision.HIGHEST  # a TPU multiplies float32 in one pass of bfloat16 unless told otherwise

State = tuple[jax.Array, jax.Array, jax.Array]
"""Of the keys seen so far: greatest score, sum of weights, weighted sum of v; [num_kv_heads, group, ...]."""


def _unseen(num_kv_heads: int, group: int, head_dim: int) -> State:
    row = (num_kv_heads, group, 1)
    return jnp.full(row, -jnp.inf), jnp.zeros(row), jnp.zeros((num_kv_heads, group, head_dim))


def _seen(state: State, q: jax.Array, k: jax.Array, v: jax.Array, sm_scale: jax.Array, num_live: jax.Array) -> State:
    """The state after the keys of one page, of which the first `num_live` are live, at least one.

    q      float32 [num_kv_heads, group, head_dim]
    k, v   float32 [num_kv_heads, slot, head_dim]
    """
    peak, total, mixed = state
    slots = k.shape[1]
    scores = jnp.einsum("hgd,hsd->hgs", q, k, precision=EXACT) * sm_scale
    scores = jnp.where(lax.broadcasted_iota(jnp.int32, (1, 1, slots), 2) < num_live, scores, -jnp.inf)
    v = jnp.where(lax.broadcasted_iota(jnp.int32, (1, slots, 1), 1) < num_live, v, 0.0)  # 0 * NaN is NaN
    new_peak = jnp.maximum(peak, scores.max(axis=-1, keepdims=True))
    keep, weight = jnp.exp(peak - new_peak), jnp.exp(scores - new_peak)
    total = total * keep + weight.sum(axis=-1, keepdims=True)
    mixed = mixed * keep + jnp.einsum("hgs,hsd->hgd", weight, v, precision=EXACT)
    return new_peak, total, mixed


def _heads(stream: Stream, page: jax.Array, num_kv_heads: int, slots_a_page: int) -> jax.Array:
    """A page of this stream as float32 [num_kv_heads, slot, head_dim]; `page` is its field less the page axis."""
    if stream.half is not None:
        dim = page.shape[-1] // 2
        page = page[..., stream.half * dim : (stream.half + 1) * dim]
    slot_axis = stream.slot - (stream.slot > stream.page)
    return jnp.moveaxis(page.astype(jnp.float32), slot_axis, 1).reshape(num_kv_heads, slots_a_page, -1)


@functools.partial(jax.jit, static_argnames=("layout", "num_splits", "dtype", "out_dtype", "interpret"))
def paged_decode(
    q: jax.Array,
    cache: Cache,
    block_table: jax.Array,
    kv_lens: jax.Array,
    sm_scale: float,
    *,
    layout: str,
    num_splits: int,
    dtype: Any,
    out_dtype: Any,
    interpret: Any,
) -> tuple[jax.Array, jax.Array]:
    """Attend to each of `num_splits` runs of pages of every sequence on its own.

    q            bits of dtype [num_seqs, num_q_heads, head_dim]
    cache        {field: bits of dtype} of the layout
    block_table  int32 [num_seqs, width]   entries beyond a sequence's pages are never read
    kv_lens      int32 [num_seqs]          slots beyond them may hold anything, NaN included
    sm_scale     factor of q . k
    returns      out out_dtype [num_splits, num_seqs, num_q_heads, head_dim];
                 lse float32 [num_splits, num_seqs, num_q_heads], natural; a part without keys: 0 and -inf
    """
    q = lax.bitcast_convert_type(q, dtype)
    fields = fold(layout, {name: lax.bitcast_convert_type(field, dtype) for name, field in cache.items()})
    paging = {
        stream.field: stream for stream, _ in by_stream(layout, fields)
    }  # of a field that holds both sides, either
    keys, key_field = by_stream(layout, fields)[0]
    slots_a_page, num_kv_heads = page_size(layout, fields), keys.row_shape(key_field.shape)[0]
    num_seqs, num_q_heads, head_dim = q.shape
    group = num_q_heads // num_kv_heads

    def kernel(table: Ref, lens: Ref, scale: Ref, q_ref: Ref, *refs: Ref) -> None:
        sources, (out, lse, *buffers, done) = refs[: len(fields)], refs[len(fields) :]
        seq, split = pl.program_id(0), pl.program_id(1)
        kv_len, factor, queries = lens[seq], scale[0], q_ref[...].astype(jnp.float32)
        num_pages = pl.cdiv(kv_len, slots_a_page)
        share = pl.cdiv(num_pages, num_splits)
        first = jnp.minimum(split * share, num_pages)
        end = jnp.minimum(first + share, num_pages)

        def start(i: Scalar) -> None:
            page = table[seq, i]
            for name, source, buffer in zip(fields, sources, buffers, strict=True):
                pltpu.make_async_copy(paging[name].page_of(source, page), buffer.at[i % 2], done.at[i % 2]).start()

        def arrived(i: Scalar) -> dict[str, jax.Array]:
            for buffer in buffers:  # a wait takes nothing from its ends but their size
                pltpu.make_async_copy(buffer.at[i % 2], buffer.at[i % 2], done.at[i % 2]).wait()
            return {name: buffer[i % 2] for name, buffer in zip(fields, buffers, strict=True)}

        def attend(i: Scalar, state: State) -> State:
            pl.when(i + 1 < end)(lambda: start(i + 1))
            k, v = (_heads(stream, page, num_kv_heads, slots_a_page) for stream, page in by_stream(layout, arrived(i)))
            return _seen(state, queries, k, v, factor, kv_len - i * slots_a_page)

        pl.when(first < end)(lambda: start(first))
        peak, total, mixed = lax.fori_loop(first, end, attend, _unseen(num_kv_heads, group, head_dim))
        out[...] = jnp.where(first < end, mixed / total, 0.0).astype(out.dtype)
        lse[...] = jnp.where(first < end, peak + jnp.log(total), -jnp.inf)

    def of_part(last: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, num_kv_heads, group, last), lambda seq, split, *_: (split, seq, 0, 0, 0))

    out, lse = pl.pallas_call(
        kernel,
        out_shape=[
            jax.ShapeDtypeStruct((num_splits, num_seqs, num_kv_heads, group, head_dim), out_dtype),
            jax.ShapeDtypeStruct((num_splits, num_seqs, num_kv_heads, group, 1), jnp.float32),
        ],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(num_seqs, num_splits),
            in_specs=[
                pl.BlockSpec((None, num_kv_heads, group, head_dim), lambda seq, split, *_: (seq, 0, 0, 0)),
                *[IN_HBM] * len(fields),
            ],
            out_specs=[of_part(head_dim), of_part(1)],
            scratch_shapes=[
                *(pltpu.VMEM((2, *paging[name].page_shape(f.shape)), f.dtype) for name, f in fields.items()),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        interpret=interpret,
    )(
        block_table,
        kv_lens,
        jnp.full(1, sm_scale, jnp.float32),
        q.reshape(num_seqs, num_kv_heads, group, head_dim),
        *fields.values(),
    )
    return out.reshape(num_splits, *q.shape), lse.reshape(num_splits, *q.shape[:2])
