"""Split-KV decode attention over pages. All arithmetic is float32; results are rounded once, when they are stored."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from kvconform.impls.torch_kernels import tables
from kvconform.impls.torch_kernels.tables import Table
from kvconform.impls.torch_kernels.views import View
from kvconform.impls.triton_kernels import COMPILED, launch
from kvconform.impls.triton_kernels.blocks import along
from kvconform.impls.triton_kernels.formats import narrow, widen
from kvconform.impls.triton_kernels.merge import Results, merge_states
from kvconform.impls.triton_kernels.pages import cuts, strided, unit
from kvconform.impls.triton_kernels.tables import listed, place, row_of

TILE = 16
"""Keys between two updates of the running maximum."""

MOST_TASKS = 1 if COMPILED else 128
"""Of one program; the interpreter pays by the program, whatever its size."""

MOST_ROWS = 8
"""Of a task, if its q heads are not more, where sequences have several query tokens: a key is loaded once for all rows.
Whatever the lengths of a call are, so that no row's sums go another way for its neighbours' sake.
"""


@triton.jit
def _in_head(dims, slow_step, fast_step, CUT: tl.constexpr, UNIT: tl.constexpr):
    """`blocks.along`, told that the slow step is a multiple of UNIT."""
    return dims * fast_step if CUT == 0 else tl.multiple_of(dims // CUT * slow_step, UNIT) + dims % CUT * fast_step


@triton.jit
def _owners(blocks, q_starts, num_seqs, search, QUERIES: tl.constexpr):
    """The sequence of each block of QUERIES query tokens, and the first of the block's tokens among its sequence's.

    Every sequence begins with a block of its own, number q_starts // QUERIES + seq, so that nobody has to count them
    beforehand; a few blocks are left without a token.
    """
    seqs = blocks * 0
    while search > 0:
        probes = seqs + search
        is_seq = probes < num_seqs
        begins = tl.load(q_starts + probes, mask=is_seq, other=0) // QUERIES + probes
        seqs = tl.where(is_seq & (begins <= blocks), probes, seqs)
        search = search // 2
    return seqs, (blocks - seqs - tl.load(q_starts + seqs) // QUERIES) * QUERIES


@triton.jit
def _bent(scores, soft_cap, bend):
    """soft_cap * tanh(scores / soft_cap), of one exponential that cannot overflow; bend is -2 / soft_cap."""
    e = tl.exp(tl.abs(scores) * bend)
    size = tl.div_rn(1.0 - e, 1.0 + e) * soft_cap
    return tl.where(scores < 0.0, -size, size)


@triton.jit
def _write(
    cache, page, slow_slot, slot, slow_head, head, slow_dim, dim, rows, row_step, head_step, dim_step,
    tables, entries_step, row, keys, heads, dims, is_key, is_dim, page_size,
    SLOT_CUT: tl.constexpr, HEAD_CUT: tl.constexpr, DIM_CUT: tl.constexpr,
):  # fmt: skip
    """Rows [task, key] of K or V into the slots of their keys, one head of each task."""
    mask = is_key[:, :, None] & is_dim[None, None, :]
    read = (row * row_step + heads[:, None] * head_step)[:, :, None] + (dims * dim_step)[None, None, :]
    pages, slots = place(tables, entries_step, keys, is_key, page_size, False)
    to = pages * page + along(slots, slow_slot, slot, SLOT_CUT)
    to += along(heads, slow_head, head, HEAD_CUT)[:, None]
    to = to[:, :, None] + along(dims, slow_dim, dim, DIM_CUT)[None, None, :]
    tl.store(cache + to, tl.load(rows + read, mask=mask, other=0.0), mask=mask)


@launch.kernel("k_cache", "v_cache", "k_dim", "v_dim", "head_dim")
def _decode(
    q, q_row, q_head, q_dim,
    k_cache, k_page, k_slow_slot, k_slot, k_slow_head, k_head, k_slow_dim, k_dim,
    v_cache, v_page, v_slow_slot, v_slot, v_slow_head, v_head, v_slow_dim, v_dim,
    begins, begins_step, entries, entries_seq, entries_step, kv_lens, lens_step,
    outs, out_split, out_row, out_head, out_dim, lses, lse_split, lse_row, lse_head,
    sinks, sinks_step, slopes, slopes_step, window, soft_cap, bend, q_starts, search,
    new_k, new_k_row, new_k_head, new_k_dim, new_v, new_v_row, new_v_head, new_v_dim,
    tree, tree_row, tree_column,
    num_tasks, num_blocks, num_seqs, num_kv_heads, group, head_dim, page_size, num_splits, sm_scale,
    K_SLOT_CUT: tl.constexpr, K_HEAD_CUT: tl.constexpr, K_DIM_CUT: tl.constexpr,
    V_SLOT_CUT: tl.constexpr, V_HEAD_CUT: tl.constexpr, V_DIM_CUT: tl.constexpr,
    K_UNIT: tl.constexpr, V_UNIT: tl.constexpr, OF_TOKENS: tl.constexpr,
    TASKS: tl.constexpr, QUERIES: tl.constexpr, GROUP: tl.constexpr, KEYS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """A task attends with all q heads of one kv head, of some query tokens, to one split of the keys that they see; a
    program has some tasks.

    Every stride of K or V but the innermost is a multiple of its UNIT: so many elements can be loaded at once.
    Axes of blocks: task, row (query token and q head in its group), key, dim. A key that no row sees is not loaded but
    0: no dead or evicted slot can be a NaN. What is None (sinks, slopes, window, soft_cap, q_starts, new_k, tree) is
    not compiled.

    new_k, new_v hold the newest keys, one of each query token: they are read there, whoever else may read them in the
    cache, and each is written into its slot by the task that attends from it to the first split.
    """
    tasks = tl.program_id(0).to(tl.int64) * TASKS + tl.arange(0, TASKS)
    is_task = tasks < num_tasks
    heads, blocks = tasks % num_kv_heads, tasks // num_kv_heads % num_blocks
    splits = tasks // num_kv_heads // num_blocks
    rows, dims = tl.arange(0, QUERIES * GROUP).to(tl.int64), tl.arange(0, DIMS).to(tl.int64)
    is_dim = dims < head_dim
    members = rows % GROUP
    is_row = is_task[:, None] & (members < group)[None, :]
    q_heads = heads[:, None] * group + members[None, :]
    if q_starts is None:  # a block is a sequence, and its one query token stands at the last key
        seqs, q_rows = blocks, blocks[:, None]
        lengths = tl.load(kv_lens + seqs * lens_step, mask=is_task, other=0).to(tl.int64)
        places, ends = lengths[:, None] - 1, lengths
    else:
        seqs, block_starts = _owners(blocks, q_starts, num_seqs, search, QUERIES)
        lengths = tl.load(kv_lens + seqs * lens_step, mask=is_task, other=0).to(tl.int64)
        starts = tl.load(q_starts + seqs)
        q_lengths = tl.load(q_starts + seqs + 1) - starts
        tokens = block_starts[:, None] + (rows // GROUP)[None, :]
        is_row &= tokens < q_lengths[:, None]
        new = lengths - q_lengths  # the position of the first query token
        q_rows, places = starts[:, None] + tokens, new[:, None] + tokens
        ends = tl.max(tl.where(is_row, places + 1, 0), 1)
    is_out = is_row[:, :, None] & is_dim[None, None, :]
    q_at = q_rows * q_row + q_heads * q_head
    queries = widen(tl.load(q + q_at[:, :, None] + (dims * q_dim)[None, None, :], mask=is_out, other=0.0))

    tables = row_of(entries, entries_seq, entries_step, begins, begins_step, seqs, is_task)[:, None]
    if new_k is not None:
        held, writes = lengths - q_lengths, tl.arange(0, QUERIES)[None, :] + block_starts[:, None]
        is_written = is_task[:, None] & (splits == 0)[:, None] & (writes < q_lengths[:, None])
        _write(
            k_cache, k_page, k_slow_slot, k_slot, k_slow_head, k_head, k_slow_dim, k_dim,
            new_k, new_k_row, new_k_head, new_k_dim, tables, entries_step,
            starts[:, None] + writes, held[:, None] + writes, heads, dims, is_written, is_dim, page_size,
            K_SLOT_CUT, K_HEAD_CUT, K_DIM_CUT,
        )  # fmt: skip
        _write(
            v_cache, v_page, v_slow_slot, v_slot, v_slow_head, v_head, v_slow_dim, v_dim,
            new_v, new_v_row, new_v_head, new_v_dim, tables, entries_step,
            starts[:, None] + writes, held[:, None] + writes, heads, dims, is_written, is_dim, page_size,
            V_SLOT_CUT, V_HEAD_CUT, V_DIM_CUT,
        )  # fmt: skip

    if window is None:
        first, last = ends * splits // num_splits, ends * (splits + 1) // num_splits
    else:
        oldest = tl.minimum(tl.maximum(tl.min(places, 1) + 1 - window, 0), ends)
        first = oldest + (ends - oldest) * splits // num_splits
        last = oldest + (ends - oldest) * (splits + 1) // num_splits
    k_dims = _in_head(dims, k_slow_dim, k_dim, K_DIM_CUT, K_UNIT)
    v_dims = _in_head(dims, v_slow_dim, v_dim, V_DIM_CUT, V_UNIT)
    k_heads = along(heads, k_slow_head, k_head, K_HEAD_CUT)
    v_heads = along(heads, v_slow_head, v_head, V_HEAD_CUT)
    top = tl.full([TASKS, QUERIES * GROUP], float("-inf"), tl.float32)
    total = tl.full([TASKS, QUERIES * GROUP], 0.0, tl.float32)
    mixed = tl.full([TASKS, QUERIES * GROUP, DIMS], 0.0, tl.float32)
    if sinks is not None:  # a key that the first split has already seen
        has_sink = is_row & (splits == 0)[:, None]
        top = tl.load(sinks + q_heads * sinks_step, mask=has_sink, other=float("-inf"))
        total = tl.where(has_sink, 1.0, total)
    if slopes is not None:
        slants = tl.load(slopes + q_heads * slopes_step, mask=is_row, other=0.0)[:, :, None]
    longest, done = tl.max(last - first, 0), 0
    while done < longest:  # not `for`: with numpy 2.4 the interpreter of Triton 3.6 takes no range of numbers it loaded
        keys = (first + done)[:, None] + tl.arange(0, KEYS)[None, :]
        is_key = keys < last[:, None]
        is_cached = is_key
        if new_k is not None:
            is_cached = is_key & (keys < held[:, None])
        is_read = is_cached[:, :, None] & is_dim[None, None, :]
        pages, slots = place(tables, entries_step, keys, is_cached, page_size, OF_TOKENS)
        k_slots, v_slots = along(slots, k_slow_slot, k_slot, K_SLOT_CUT), along(slots, v_slow_slot, v_slot, V_SLOT_CUT)
        k_keys = tl.multiple_of(pages * k_page + k_slots + k_heads[:, None], [K_UNIT, K_UNIT])
        v_keys = tl.multiple_of(pages * v_page + v_slots + v_heads[:, None], [V_UNIT, V_UNIT])
        k = tl.load(k_cache + k_keys[:, :, None] + k_dims[None, None, :], mask=is_read, other=0.0)
        v = tl.load(v_cache + v_keys[:, :, None] + v_dims[None, None, :], mask=is_read, other=0.0)
        if new_k is not None:
            is_new = (is_key & (keys >= held[:, None]))[:, :, None] & is_dim[None, None, :]
            rows_at = starts[:, None] + keys - held[:, None]
            k_at = (rows_at * new_k_row + heads[:, None] * new_k_head)[:, :, None] + (dims * new_k_dim)[None, None, :]
            v_at = (rows_at * new_v_row + heads[:, None] * new_v_head)[:, :, None] + (dims * new_v_dim)[None, None, :]
            k = tl.where(is_new, tl.load(new_k + k_at, mask=is_new, other=0.0), k)
            v = tl.where(is_new, tl.load(new_v + v_at, mask=is_new, other=0.0), v)
        scores = tl.sum(queries[:, :, None, :] * widen(k)[:, None, :, :], 3) * sm_scale
        is_seen = is_key[:, None, :]
        if soft_cap is not None:
            scores = _bent(scores, soft_cap, bend)
        if slopes is not None:
            scores += slants * (keys[:, None, :] - places[:, :, None]).to(tl.float32)
        if q_starts is not None:
            is_seen &= keys[:, None, :] <= places[:, :, None]
            if window is not None:
                is_seen &= keys[:, None, :] > places[:, :, None] - window
        if tree is not None:
            columns = (keys - new[:, None])[:, None, :]
            is_told = is_row[:, :, None] & is_key[:, None, :] & (columns >= 0)
            is_seen &= tl.load(tree + q_rows[:, :, None] * tree_row + columns * tree_column, mask=is_told, other=1) != 0
        scores = tl.where(is_seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 2))
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)  # a task that is done, or a row without keys
        fade, p = tl.exp(top - reference), tl.exp(scores - reference[:, :, None])
        total = total * fade + tl.sum(p, 2)
        mixed = mixed * fade[:, :, None] + tl.sum(p[:, :, :, None] * widen(v)[:, None, :, :], 2)
        top = new_top
        done += KEYS

    denominator = tl.where(total == 0.0, 1.0, total)  # no keys: out 0, lse -inf
    out = tl.div_rn(mixed, tl.broadcast_to(denominator[:, :, None], [TASKS, QUERIES * GROUP, DIMS]))
    out_at = (splits * out_split)[:, None] + q_rows * out_row + q_heads * out_head
    lse_at = (splits * lse_split)[:, None] + q_rows * lse_row + q_heads * lse_head
    out = narrow(out, outs.dtype.element_ty)
    tl.store(outs + out_at[:, :, None] + (dims * out_dim)[None, None, :], out, mask=is_out)
    tl.store(lses + lse_at, top + tl.log(denominator), mask=is_row)


def workspace_bytes(q: torch.Tensor, *_: Any, num_splits: int = 1, **options: Any) -> int:
    """The partial results of splits, float32; none where there is one split, whose results are stored at once."""
    num_seqs, num_q_heads, head_dim = q.shape
    return num_splits * num_seqs * num_q_heads * (head_dim + 1) * 4 if num_splits > 1 else 0


def _partials(q: torch.Tensor, num_splits: int, workspace: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Their outs and lses, in memory that is given or in their own."""
    shape = (num_splits, *q.shape)
    if workspace is None:
        workspace = q.new_empty(workspace_bytes(q, num_splits=num_splits), dtype=torch.uint8)
    outs, lses = workspace.view(torch.float32).split([math.prod(shape), math.prod(shape[:-1])])
    return outs.view(shape), lses.view(shape[:-1])


def paged_decode(
    q: torch.Tensor,
    k: View,
    v: View,
    table: Table,
    kv_lens: torch.Tensor,
    sm_scale: float,
    num_splits: int,
    *,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    q_lens: torch.Tensor | None = None,
    new: tuple[torch.Tensor, torch.Tensor] | None = None,
    tree_mask: torch.Tensor | None = None,
    into: Results = (None, None),
    workspace: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """out in q's dtype and lse, [num_q_rows, num_q_heads, head_dim] and [num_q_rows, num_q_heads].

    new               K and V of the newest tokens, one of each query row: they are written into the cache, too
    into, workspace   where they, and partial results, are written, if it is given
    """
    num_rows, num_q_heads, head_dim = q.shape
    num_seqs, num_kv_heads = len(kv_lens), k.num_heads
    kv_lens = tables.lengths(table, kv_lens, k.page_size)
    group = num_q_heads // num_kv_heads
    if num_splits == 1:
        outs = (torch.empty_like(q, memory_format=torch.contiguous_format) if into[0] is None else into[0])[None]
        lses = (q.new_empty(num_rows, num_q_heads, dtype=torch.float32) if into[1] is None else into[1])[None]
    else:
        outs, lses = _partials(q, num_splits, workspace)
    group_block, dims_block = triton.next_power_of_2(group), max(32, triton.next_power_of_2(head_dim))
    queries, num_blocks, q_starts = 1, num_seqs, None
    if new is not None and q_lens is None:
        q_lens = torch.ones_like(kv_lens)
    if q_lens is not None:
        queries = max(1, MOST_ROWS // group_block)
        num_blocks = num_rows // queries + num_seqs
        q_starts = torch.nn.functional.pad(q_lens.cumsum(0), (1, 0))
    num_tasks = num_splits * num_blocks * num_kv_heads
    tasks_block = min(MOST_TASKS, triton.next_power_of_2(max(1, num_tasks)))
    launch.launch(
        _decode,
        (triton.cdiv(num_tasks, tasks_block),),
        *strided(q, k.tensor, v.tensor),
        *listed(table),
        *strided(kv_lens, outs, lses),
        *_optional(sinks),
        *_optional(alibi_slopes),
        window,
        soft_cap,
        None if soft_cap is None else -2.0 / soft_cap,
        q_starts,
        triton.next_power_of_2(num_seqs) // 2,
        *((None, 0, 0, 0) * 2 if new is None else strided(*new)),
        *(None, 0, 0) if tree_mask is None else strided(tree_mask.view(torch.uint8)),
        num_tasks,
        num_blocks,
        num_seqs,
        num_kv_heads,
        group,
        head_dim,
        k.page_size,
        num_splits,
        sm_scale,
        **cuts(k.tensor, "K_"),
        **cuts(v.tensor, "V_"),
        K_UNIT=unit(k.tensor),
        V_UNIT=unit(v.tensor),
        OF_TOKENS=tables.of_tokens(table),
        TASKS=tasks_block,
        QUERIES=queries,
        GROUP=group_block,
        KEYS=TILE,
        DIMS=dims_block,
        num_warps=4 if queries * group_block * dims_block <= 512 else 8,
    )
    return (outs[0], lses[0]) if num_splits == 1 else merge_states(outs, lses, q.dtype, into)


def _optional(tensor: torch.Tensor | None) -> tuple[torch.Tensor | None, int]:
    """A tensor of one axis and its stride, as `_decode` takes them."""
    return (None, 0) if tensor is None else (tensor, tensor.stride(0))
