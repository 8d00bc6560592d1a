"""Partial results merged by log-sum-exp, in float32; results are rounded once, when they are stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kvconform.impls.triton_kernels import COMPILED, launch
from kvconform.impls.triton_kernels.formats import narrow, widen
from kvconform.impls.triton_kernels.pages import strided

Results = tuple[torch.Tensor | None, torch.Tensor | None]

MOST_ROWS = 1 if COMPILED else 64
"""Of one program; the interpreter pays by the program, whatever its size."""


@launch.kernel("out_dim", "to_dim")
def _merge(
    outs, out_part, out_seq, out_head, out_dim, lses, lse_part, lse_seq, lse_head,
    out, to_seq, to_head, to_dim, lse, lse_to_seq, lse_to_head,
    num_parts, num_rows, num_heads, head_dim,
    PARTS: tl.constexpr, ROWS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """A program merges some rows, sequence and head in one. Parts with lse -inf are empty: their outs are not read."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    parts, dims = tl.arange(0, PARTS).to(tl.int64), tl.arange(0, DIMS).to(tl.int64)
    is_row, is_dim = rows < num_rows, dims < head_dim
    seqs, heads = rows // num_heads, rows % num_heads

    lse_at = (parts * lse_part)[:, None] + (seqs * lse_seq + heads * lse_head)[None, :]
    is_part = (parts < num_parts)[:, None] & is_row[None, :]
    part_lses = tl.load(lses + lse_at, mask=is_part, other=float("-inf"))
    is_live = part_lses != float("-inf")
    num_live = tl.sum(is_live.to(tl.int32), 0)
    top = tl.max(part_lses, 0)
    weights = tl.exp(part_lses - tl.where(num_live == 0, 0.0, top)[None, :])
    total = tl.where(num_live == 0, 1.0, tl.sum(weights, 0))  # nothing live: out 0, lse -inf

    out_at = (parts * out_part)[:, None] + (seqs * out_seq + heads * out_head)[None, :]
    is_read = is_live[:, :, None] & is_dim[None, None, :]
    part_outs = tl.load(outs + out_at[:, :, None] + (dims * out_dim)[None, None, :], mask=is_read, other=0.0)
    part_outs = widen(part_outs)
    merged = tl.sum(weights[:, :, None] * part_outs, 0)
    merged = tl.div_rn(merged, tl.broadcast_to(total[:, None], [ROWS, DIMS]))

    # the only live part is the result, -0 and NaN included: its bits, added to zeros
    is_only = (num_live == 1)[:, None]
    bits = tl.where(is_only[None, :, :], part_outs.to(tl.int32, bitcast=True), 0)
    merged = tl.where(is_only, tl.sum(bits, 0).to(tl.float32, bitcast=True), merged)
    at = (seqs * to_seq + heads * to_head)[:, None] + (dims * to_dim)[None, :]
    tl.store(out + at, narrow(merged, out.dtype.element_ty), mask=is_row[:, None] & is_dim[None, :])
    tl.store(lse + seqs * lse_to_seq + heads * lse_to_head, top + tl.log(total), mask=is_row)


def merge_states(
    outs: torch.Tensor, lses: torch.Tensor, dtype: torch.dtype, into: Results = (None, None)
) -> tuple[torch.Tensor, torch.Tensor]:
    """outs [num_parts, num_seqs, num_q_heads, head_dim] and lses [num_parts, num_seqs, num_q_heads]: out, lse.

    into   where they are written, if it is given
    """
    num_parts, num_seqs, num_heads, head_dim = outs.shape
    num_rows = num_seqs * num_heads
    out = outs.new_empty(outs.shape[1:], dtype=dtype) if into[0] is None else into[0]
    lse = lses.new_empty(lses.shape[1:]) if into[1] is None else into[1]
    rows_block = min(MOST_ROWS, triton.next_power_of_2(max(1, num_rows)))
    parts_block = max(8, triton.next_power_of_2(num_parts))  # one compilation for all but many parts
    dims_block = max(32, triton.next_power_of_2(head_dim))
    launch.launch(
        _merge,
        (triton.cdiv(num_rows, rows_block),),
        *strided(outs, lses, out, lse),
        num_parts,
        num_rows,
        num_heads,
        head_dim,
        PARTS=parts_block,
        ROWS=rows_block,
        DIMS=dims_block,
        num_warps=4 if parts_block * dims_block <= 4096 else 8,
    )
    return out, lse
