"""Paged decode attention: pages brought by hand, two in flight, online softmax in float32.

One program serves all heads and query tokens of one part of one sequence. The parts' results are merged by
`merge.merge_states`; a sink is counted in the first one. Every feature of attention is there in every call, at numbers
that change no bit where it is off: a kernel is compiled once for all of them, and pages that no query sees stay away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kvconform.impls.pallas_kernels.launch import compiled
from kvconform.impls.pallas_kernels.layouts import Cache, Ref, Scalar, Stream, by_stream, fold
from kvconform.impls.pallas_kernels.layouts import page_size as slots_of
from kvconform.impls.pallas_kernels.movement import IN_HBM

EXACT = lax.Precision.HIGHEST  # a TPU multiplies float32 in one pass of bfloat16 unless told otherwise

ALL_KEYS = 1 << 30
"""A window that leaves no key out: longer than any sequence, and an int32 yet when a position is taken from it."""

NO_CAP = 0.0
NO_SINK = -jnp.inf
NO_SLOPE = 0.0

State = tuple[jax.Array, jax.Array, jax.Array]
"""Of the keys seen so far: greatest score, sum of weights, weighted sum of v; [num_kv_heads, row, ...]."""


@dataclass(frozen=True)
class Queries:
    """The rows of one sequence's query tokens, token after token, and what they see of it.

    q          float32 [num_kv_heads, row, head_dim]   row: token * group + q head of the kv head
    slopes     float32 [num_kv_heads, row, 1]
    tree       float32 [row, token]   1: its row sees the key of the token, which is not newer
    sm_scale, soft_cap, window, kv_len   scalars
    """

    q: jax.Array
    slopes: jax.Array
    tree: jax.Array
    sm_scale: Scalar
    soft_cap: Scalar
    window: Scalar
    kv_len: Scalar
    q_len: int

    @property
    def oldest(self) -> Scalar:
        """The position of the oldest key that any of them sees; below 0 where that is the first one."""
        return self.kv_len - self.q_len + 1 - self.window

    def scores(self, k: jax.Array, scale: jax.Array | None, first: Scalar) -> jax.Array:
        """[num_kv_heads, row, slot] of a page float32 [num_kv_heads, slot, head_dim] whose first slot is key `first`.

        scale   [num_kv_heads, 1, slot] of what the page's numbers are multiplied with, or None

        A key that a row does not see may hold anything: -inf is put in place of its score.
        """
        num_rows, slots = self.q.shape[1], k.shape[1]
        row = lax.broadcasted_iota(jnp.int32, (1, num_rows, 1), 1)
        group = num_rows // self.q_len
        token = sum(((row >= later * group).astype(jnp.int32) for later in range(1, self.q_len)), jnp.zeros_like(row))
        place = first + lax.broadcasted_iota(jnp.int32, (1, 1, slots), 2) - (self.kv_len - self.q_len)
        distance = place - token
        hidden = [(place == new) & (self.tree[None, :, new : new + 1] == 0) for new in range(self.q_len)]
        scores = jnp.einsum("hrd,hsd->hrs", self.q, k, precision=EXACT)
        scores = (scores if scale is None else scores * scale) * self.sm_scale
        scores = jnp.where(self.soft_cap == NO_CAP, scores, self.soft_cap * jnp.tanh(scores / self.soft_cap))
        scores = scores + self.slopes * distance.astype(jnp.float32)
        seen = (distance <= 0) & (distance > -self.window) & ~functools.reduce(jnp.logical_or, hidden)
        return jnp.where(seen, scores, -jnp.inf)

    def live(self, numbers: jax.Array, first: Scalar, slot_axis: int) -> jax.Array:
        """A page, or its scales, as `scores` takes them, with zeros for the keys that no row sees: 0 * NaN is NaN."""
        along = [1, 1, 1]
        along[slot_axis] = numbers.shape[slot_axis]
        key = first + lax.broadcasted_iota(jnp.int32, tuple(along), slot_axis)
        return jnp.where((key >= self.oldest) & (key < self.kv_len), numbers, 0.0)


def _unseen(sinks: jax.Array, head_dim_v: int) -> State:
    """The state before any key; a sink [num_kv_heads, row, 1] is one key more, whose value is zero."""
    return sinks, jnp.where(sinks == NO_SINK, 0.0, 1.0), jnp.zeros((*sinks.shape[:2], head_dim_v))


def seen(state: State, scores: jax.Array, mix: Callable[[jax.Array], jax.Array]) -> State:
    """The state after some more keys; all of a row's may be masked. `mix` gives weights' sum of v."""
    peak, total, mixed = state
    new_peak = jnp.maximum(peak, scores.max(axis=-1, keepdims=True))
    reference = jnp.where(new_peak == -jnp.inf, 0.0, new_peak)  # -inf - -inf is NaN
    keep, weight = jnp.exp(peak - reference), jnp.exp(scores - reference)
    total = total * keep + weight.sum(axis=-1, keepdims=True)
    return new_peak, total, mixed * keep + mix(weight)


def _mixed(v: jax.Array, scale: jax.Array | None, weight: jax.Array) -> jax.Array:
    """The weighted sum of the keys of one page. `scale` of v, as `scores` takes that of k."""
    share = weight if scale is None else weight * scale
    return jnp.einsum("hrs,hsd->hrd", share, v, precision=EXACT)


def result(state: State) -> tuple[jax.Array, jax.Array]:
    """out and lse of a state: 0 and -inf of rows that saw nothing."""
    peak, total, mixed = state
    nothing = total == 0.0
    return jnp.where(nothing, 0.0, mixed / total), jnp.where(nothing, -jnp.inf, peak + jnp.log(total))


def _heads(stream: Stream, page: jax.Array, num_kv_heads: int, slots_a_page: int, width: int) -> jax.Array:
    """A page of this stream as float32 [num_kv_heads, slot, head_dim]; `page` is its field less the page axis.

    slots_a_page   slots behind them are padding
    width          of K
    """
    slot_axis = stream.slot - (stream.slot > stream.page)
    rows = jnp.moveaxis(stream.of_rows(page, width).astype(jnp.float32), slot_axis, 1)
    return rows[:, :slots_a_page].reshape(num_kv_heads, slots_a_page, -1)


SCALES = "scales"
"""Name of the array of scales among the fields whose pages are brought."""


@compiled(static_argnames=("layout", "num_splits", "dtype", "q_dtype", "out_dtype", "page_size", "interpret"))
def paged_decode(
    q: jax.Array,
    cache: Cache,
    block_table: jax.Array,
    kv_lens: jax.Array,
    sm_scale: float,
    soft_cap: float,
    window: int,
    sinks: jax.Array,
    slopes: jax.Array,
    tree: jax.Array,
    scales: jax.Array | None = None,
    *,
    layout: str,
    num_splits: int,
    dtype: Any,
    q_dtype: Any,
    out_dtype: Any,
    page_size: int | None = None,
    interpret: Any,
) -> tuple[jax.Array, jax.Array]:
    """Attend to each of `num_splits` runs of pages of every sequence on its own.

    q            bits of q_dtype [num_rows, num_q_heads, head_dim]   the newest tokens of each sequence, as many of each
    cache        {field: bits of dtype} of the layout
    block_table  int32 [num_seqs, width]   entries beyond a sequence's pages are never read
    kv_lens      int32 [num_seqs]          slots beyond them may hold anything, NaN included
    sm_scale     factor of q . k
    soft_cap     what that is bent to by tanh; NO_CAP: it is not
    window       keys that a token sees at most, its own among them; ALL_KEYS: no fewer than there are
    sinks        bits of float32 [num_q_heads]   scores of one more key each; NO_SINK: there is none
    slopes       bits of float32 [num_q_heads]   times a key's distance from the token: <= 0; NO_SLOPE: nothing
    tree         bits of bool [num_rows, tokens of a sequence]   whether a token sees another that is not newer
    scales       bits of float32 [num_pages, 2, num_kv_heads, page_size] of K and of V, which may be anything where no
                 token lies; None: the numbers of the cache are K and V
    page_size    None where the fields tell it
    returns      out out_dtype [num_splits, num_rows, num_q_heads, head_dim of V];
                 lse float32 [num_splits, num_rows, num_q_heads], natural; a row that sees nothing: 0 and -inf
    """
    q = lax.bitcast_convert_type(q, q_dtype)
    fields = fold(layout, {name: lax.bitcast_convert_type(field, dtype) for name, field in cache.items()})
    paging = {
        stream.field: stream for stream, _ in by_stream(layout, fields)
    }  # of a field that holds both sides, either
    (keys, key_field), (values, value_field) = by_stream(layout, fields)
    slots_a_page, num_kv_heads = page_size or slots_of(layout, fields), keys.row_shape(key_field.shape)[0]
    num_seqs, (_, num_q_heads, head_dim) = len(kv_lens), q.shape
    read = partial(_heads, num_kv_heads=num_kv_heads, slots_a_page=slots_a_page, width=head_dim)
    a_page = jax.ShapeDtypeStruct(values.page_shape(value_field.shape), value_field.dtype)
    head_dim_v = jax.eval_shape(partial(read, values), a_page).shape[-1]
    if scales is not None:
        fields[SCALES] = lax.bitcast_convert_type(scales, jnp.float32)
        paging[SCALES] = Stream(SCALES, page=0, slot=3)
    q_len, group = q.shape[0] // num_seqs, num_q_heads // num_kv_heads
    num_rows = q_len * group
    by_head = jnp.moveaxis(q.reshape(num_seqs, q_len, num_kv_heads, group, head_dim), 1, 2)
    of_heads = lax.bitcast_convert_type(jnp.stack([sinks, slopes]), jnp.float32).reshape(2, num_kv_heads, 1, group)

    of_tokens = jnp.repeat(tree.reshape(num_seqs, q_len, q_len).astype(jnp.float32), group, axis=1)

    def kernel(
        table: Ref, lens: Ref, span: Ref, factors: Ref, heads: Ref, tree_ref: Ref, q_ref: Ref, *refs: Ref
    ) -> None:
        sources, (out, lse, *buffers, done) = refs[: len(fields)], refs[len(fields) :]
        seq, split = pl.program_id(0), pl.program_id(1)
        asked = q_ref[...].astype(jnp.float32), heads[1], tree_ref[...]
        rows = Queries(*asked, factors[0], factors[1], span[0], lens[seq], q_len)
        unread = lax.div(jnp.maximum(rows.oldest, 0), slots_a_page)
        num_pages = pl.cdiv(rows.kv_len, slots_a_page)
        share = pl.cdiv(num_pages - unread, num_splits)
        first = jnp.minimum(unread + split * share, num_pages)
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
            here, key = arrived(i), i * slots_a_page
            k, v = (read(stream, page) for stream, page in by_stream(layout, here))
            k_scale, v_scale = (here[SCALES][side][:, None] if SCALES in here else None for side in (0, 1))
            v_scale = None if v_scale is None else rows.live(v_scale, key, slot_axis=2)
            mix = partial(_mixed, rows.live(v, key, slot_axis=1), v_scale)
            return seen(state, rows.scores(k, k_scale, key), mix)

        pl.when(first < end)(lambda: start(first))
        counted = jnp.where(split == 0, heads[0], NO_SINK)
        mixed, total = result(lax.fori_loop(first, end, attend, _unseen(counted, head_dim_v)))
        out[...], lse[...] = mixed.astype(out.dtype), total

    def of_part(last: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, num_kv_heads, num_rows, last), lambda seq, split, *_: (split, seq, 0, 0, 0))

    out, lse = pl.pallas_call(
        kernel,
        out_shape=[
            jax.ShapeDtypeStruct((num_splits, num_seqs, num_kv_heads, num_rows, head_dim_v), out_dtype),
            jax.ShapeDtypeStruct((num_splits, num_seqs, num_kv_heads, num_rows, 1), jnp.float32),
        ],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(num_seqs, num_splits),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.VMEM),
                pl.BlockSpec((None, num_rows, q_len), lambda seq, split, *_: (seq, 0, 0)),
                pl.BlockSpec((None, num_kv_heads, num_rows, head_dim), lambda seq, split, *_: (seq, 0, 0, 0)),
                *[IN_HBM] * len(fields),
            ],
            out_specs=[of_part(head_dim_v), of_part(1)],
            scratch_shapes=[
                *(pltpu.VMEM((2, *paging[name].page_shape(f.shape)), f.dtype) for name, f in fields.items()),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        interpret=interpret,
    )(
        block_table,
        kv_lens,
        jnp.full(1, window, jnp.int32),
        jnp.stack([jnp.float32(sm_scale), jnp.float32(soft_cap)]),
        jnp.broadcast_to(of_heads, (2, num_kv_heads, q_len, group)).reshape(2, num_kv_heads, num_rows, 1),
        of_tokens,
        by_head.reshape(num_seqs, num_kv_heads, num_rows, head_dim),
        *fields.values(),
    )

    def by_token(rows: jax.Array) -> jax.Array:
        """[split, seq, num_kv_heads, row, n] as [split, seq, token, num_kv_heads, group, n]."""
        return jnp.moveaxis(rows.reshape(*rows.shape[:3], q_len, group, -1), 3, 2)

    return by_token(out).reshape(num_splits, *q.shape[:2], head_dim_v), by_token(lse).reshape(num_splits, *q.shape[:2])
