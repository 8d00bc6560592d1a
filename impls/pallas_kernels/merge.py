"""Merge of attentions over parts of the keys, by their log-sum-exp."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from kvconform.impls.pallas_kernels.launch import compiled
from kvconform.impls.pallas_kernels.layouts import Ref


@compiled(static_argnames=("dtype", "out_dtype", "interpret"))
def merge_states(
    outs: jax.Array, lses: jax.Array, *, dtype: Any, out_dtype: Any, interpret: Any
) -> tuple[jax.Array, jax.Array]:
    """Combine the parts of every row; a row with one live part keeps it bit for bit.

    outs      bits of dtype [num_parts, num_seqs, num_q_heads, head_dim]   of an empty part: anything, NaN included
    lses      bits of float32 [num_parts, num_seqs, num_q_heads]           natural; -inf marks an empty part
    returns   out out_dtype [num_seqs, num_q_heads, head_dim], lse float32 [num_seqs, num_q_heads];
              a row without a live part: 0 and -inf
    """
    num_parts, num_seqs, num_q_heads, head_dim = outs.shape
    outs, lses = lax.bitcast_convert_type(outs, dtype), lax.bitcast_convert_type(lses, jnp.float32)

    def kernel(outs_ref: Ref, lses_ref: Ref, out_ref: Ref, lse_ref: Ref) -> None:
        parts, lse = outs_ref[...], lses_ref[...]
        live = lse != -jnp.inf
        num_live = live.astype(jnp.int32).sum(axis=0)
        peak = lse.max(axis=0)
        weight = jnp.where(live, jnp.exp(lse - peak), 0.0)  # where no part lives, -inf - -inf is NaN and not taken
        total = weight.sum(axis=0)
        mixed = jnp.where(live, parts.astype(jnp.float32) * weight, 0.0).sum(axis=0) / total
        only = parts[0]
        for part in range(1, num_parts):
            only = jnp.where(live[part], parts[part], only)
        merged = jnp.where(num_live == 1, only.astype(out_dtype), mixed.astype(out_dtype))
        out_ref[...] = jnp.where(num_live == 0, jnp.zeros_like(merged), merged)
        lse_ref[...] = jnp.where(num_live > 1, peak + jnp.log(total), peak)

    def of_parts(last: int) -> pl.BlockSpec:
        return pl.BlockSpec((num_parts, None, num_q_heads, last), lambda seq: (0, seq, 0, 0))

    def of_seq(last: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, num_q_heads, last), lambda seq: (seq, 0, 0))

    out, lse = pl.pallas_call(
        kernel,
        out_shape=[
            jax.ShapeDtypeStruct((num_seqs, num_q_heads, head_dim), out_dtype),
            jax.ShapeDtypeStruct((num_seqs, num_q_heads, 1), jnp.float32),
        ],
        grid=(num_seqs,),
        in_specs=[of_parts(head_dim), of_parts(1)],
        out_specs=[of_seq(head_dim), of_seq(1)],
        interpret=interpret,
    )(outs, lses[..., None])
    return out, lse[..., 0]
