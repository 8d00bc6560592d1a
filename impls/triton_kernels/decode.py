"""Split-KV decode attention over pages. All arithmetic is float32; results are rounded once, when they are stored."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from kvconform.impls.torch_kernels import tables
from kvconform.impls.torch_kernels.tables import Table
from kvconform.impls.torch_kernels.views import Numbers, View
from kvconform.impls.triton_kernels import COMPILED, launch
from kvconform.impls.triton_kernels.blocks import along
from kvconform.impls.triton_kernels.formats import narrow, read
from kvconform.impls.triton_kernels.merge import Results, merge_states
from kvconform.impls.triton_kernels.pages import cut, cuts, numbers, scale_of, shared, strided, unit
from kvconform.impls.triton_kernels.tables import listed, place, row_of
from kvconform.specs.dtypes import width

TILE = 16
"""Keys between two updates of the running maximum."""

MOST_TASKS = 1 if COMPILED else 128
"""Of one program; the interpreter pays by the program, whatever its size."""

MOST_PRODUCTS = 1 << 20
"""Of one program at a time: Triton has no larger tensor."""

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
    mask = is_key[:, :, None] & is_dim
    given = (row * row_step + heads[:, None] * head_step)[:, :, None] + (dims * dim_step)[None, None, :]
    pages, slots = place(tables, entries_step, keys, is_key, page_size, False)
    to = pages * page + along(slots, slow_slot, slot, SLOT_CUT)
    to += along(heads, slow_head, head, HEAD_CUT)[:, None]
    to = to[:, :, None] + along(dims, slow_dim, dim, DIM_CUT)[None, None, :]
    tl.store(cache + to, tl.load(rows + given, mask=mask, other=0.0), mask=mask)


@triton.jit
def _scales(
    scale, page, slow_slot, slot, head, dim, byte, pages, slots, heads, dims, is_read,
    CUT: tl.constexpr, SHARE: tl.constexpr, OF: tl.constexpr,
):  # fmt: skip
    """What keys [task, key, dim] are multiplied with, or [task, key, 1] where heads have one scale."""
    at = (pages * page + along(slots, slow_slot, slot, CUT) + (heads * head)[:, None])[:, :, None]
    if SHARE > 0:
        at += (dims // SHARE * dim)[None, None, :]
    return read(scale + at, is_read, byte, 0, OF)


@launch.kernel("k_cache", "v_cache", "k_dim", "v_dim", "head_dim", "v_head_dim")
def _decode(
    q, q_row, q_head, q_dim,
    k_cache, k_page, k_slow_slot, k_slot, k_slow_head, k_head, k_slow_dim, k_dim,
    v_cache, v_page, v_slow_slot, v_slot, v_slow_head, v_head, v_slow_dim, v_dim,
    k_scale, k_scale_page, k_scale_slow_slot, k_scale_slot, k_scale_head, k_scale_dim, k_scale_byte,
    v_scale, v_scale_page, v_scale_slow_slot, v_scale_slot, v_scale_head, v_scale_dim, v_scale_byte,
    rope, rope_page, rope_slow_slot, rope_slot, rope_dim, rope_byte,
    begins, begins_step, entries, entries_seq, entries_step, kv_lens, lens_step,
    outs, out_split, out_row, out_head, out_dim, lses, lse_split, lse_row, lse_head,
    sinks, sinks_step, slopes, slopes_step, window, soft_cap, bend, q_starts, search,
    new_k, new_k_row, new_k_head, new_k_dim, new_v, new_v_row, new_v_head, new_v_dim,
    tree, tree_row, tree_column,
    num_tasks, num_blocks, num_seqs, num_kv_heads, group, head_dim, v_head_dim, page_size, num_splits,
    sm_scale,
    K_SLOT_CUT: tl.constexpr, K_HEAD_CUT: tl.constexpr, K_DIM_CUT: tl.constexpr,
    V_SLOT_CUT: tl.constexpr, V_HEAD_CUT: tl.constexpr, V_DIM_CUT: tl.constexpr,
    K_UNIT: tl.constexpr, V_UNIT: tl.constexpr, K_OF: tl.constexpr, V_OF: tl.constexpr, ROPE_OF: tl.constexpr,
    K_IN_BYTE: tl.constexpr, V_IN_BYTE: tl.constexpr,
    K_SCALE_CUT: tl.constexpr, V_SCALE_CUT: tl.constexpr,
    K_SHARE: tl.constexpr, V_SHARE: tl.constexpr, K_SCALE_OF: tl.constexpr, V_SCALE_OF: tl.constexpr,
    OF_TOKENS: tl.constexpr, TASKS: tl.constexpr, QUERIES: tl.constexpr, GROUP: tl.constexpr, KEYS: tl.constexpr,
    DIMS: tl.constexpr, V_DIMS: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """A task attends with all q heads of one kv head, of some query tokens, to one split of the keys that they see; a
    program has some tasks.

    Every stride of K or V but the innermost is a multiple of its UNIT: so many elements can be loaded at once.
    Axes of blocks: task, row (query token and q head in its group), key, dim. A key that no row sees is not loaded but
    0: no dead or evicted slot can be a NaN. What is None (sinks, slopes, window, soft_cap, q_starts, new_k, tree,
    k_scale, v_scale, rope) is not compiled. Where there is a rope, K has ROPE more dims, which V has not, and V is the
    rest of K.

    new_k, new_v hold the newest keys, one of each query token: they are read there, whoever else may read them in the
    cache, and each is written into its slot by the task that attends from it to the first split.

    OF, IN_BYTE   the type of numbers (`formats.read`), and how many are in a byte where they are less than one
    SHARE         how many numbers along dim have one scale; 0: all
    """
    tasks = tl.program_id(0).to(tl.int64) * TASKS + tl.arange(0, TASKS)
    is_task = tasks < num_tasks
    heads, blocks = tasks % num_kv_heads, tasks // num_kv_heads % num_blocks
    splits = tasks // num_kv_heads // num_blocks
    rows = tl.arange(0, QUERIES * GROUP).to(tl.int64)
    dims, out_dims = tl.arange(0, DIMS).to(tl.int64), tl.arange(0, V_DIMS).to(tl.int64)
    is_dim, is_out_dim = (dims < head_dim)[None, None, :], (out_dims < v_head_dim)[None, None, :]
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
    q_at = (q + q_rows * q_row + q_heads * q_head)[:, :, None]
    queries = read(q_at + (dims * q_dim)[None, None, :], is_row[:, :, None] & is_dim, 0, 0, "")
    if rope is not None:
        rope_dims = tl.arange(0, ROPE).to(tl.int64)
        rope_queries = read(q_at + ((head_dim + rope_dims) * q_dim)[None, None, :], is_row[:, :, None], 0, 0, "")

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
            starts[:, None] + writes, held[:, None] + writes, heads, out_dims, is_written, is_out_dim, page_size,
            V_SLOT_CUT, V_HEAD_CUT, V_DIM_CUT,
        )  # fmt: skip

    if window is None:
        first, last = ends * splits // num_splits, ends * (splits + 1) // num_splits
    else:
        oldest = tl.minimum(tl.maximum(tl.min(places, 1) + 1 - window, 0), ends)
        first = oldest + (ends - oldest) * splits // num_splits
        last = oldest + (ends - oldest) * (splits + 1) // num_splits
    k_place, v_place = (dims % K_IN_BYTE)[None, None, :], (out_dims % V_IN_BYTE)[None, None, :]
    k_dims = _in_head(dims // K_IN_BYTE, k_slow_dim, k_dim, K_DIM_CUT, K_UNIT)
    v_dims = _in_head(out_dims // V_IN_BYTE, v_slow_dim, v_dim, V_DIM_CUT, V_UNIT)
    k_heads = along(heads, k_slow_head, k_head, K_HEAD_CUT)
    v_heads = along(heads, v_slow_head, v_head, V_HEAD_CUT)
    top = tl.full([TASKS, QUERIES * GROUP], float("-inf"), tl.float32)
    total = tl.full([TASKS, QUERIES * GROUP], 0.0, tl.float32)
    mixed = tl.full([TASKS, QUERIES * GROUP, V_DIMS], 0.0, tl.float32)
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
        is_token = is_cached[:, :, None]
        pages, slots = place(tables, entries_step, keys, is_cached, page_size, OF_TOKENS)
        k_slots, v_slots = along(slots, k_slow_slot, k_slot, K_SLOT_CUT), along(slots, v_slow_slot, v_slot, V_SLOT_CUT)
        k_keys = tl.multiple_of(pages * k_page + k_slots + k_heads[:, None], [K_UNIT, K_UNIT])
        v_keys = tl.multiple_of(pages * v_page + v_slots + v_heads[:, None], [V_UNIT, V_UNIT])
        k = read(k_cache + k_keys[:, :, None] + k_dims[None, None, :], is_token & is_dim, 0, k_place, K_OF)
        v = k  # of latents, which are both
        if rope is None:
            v = read(v_cache + v_keys[:, :, None] + v_dims[None, None, :], is_token & is_out_dim, 0, v_place, V_OF)
        if k_scale is not None:
            k_factors = _scales(
                k_scale, k_scale_page, k_scale_slow_slot, k_scale_slot, k_scale_head, k_scale_dim, k_scale_byte,
                pages, slots, heads, dims, is_token & is_dim if K_SHARE else is_token, K_SCALE_CUT, K_SHARE, K_SCALE_OF
            )  # fmt: skip
            k *= k_factors
        if v_scale is not None:
            v *= _scales(
                v_scale, v_scale_page, v_scale_slow_slot, v_scale_slot, v_scale_head, v_scale_dim, v_scale_byte,
                pages, slots, heads, out_dims, is_token & is_out_dim if V_SHARE else is_token,
                V_SCALE_CUT, V_SHARE, V_SCALE_OF
            )  # fmt: skip
        if new_k is not None:
            is_new = (is_key & (keys >= held[:, None]))[:, :, None]
            rows_at = starts[:, None] + keys - held[:, None]
            k_at = (rows_at * new_k_row + heads[:, None] * new_k_head)[:, :, None] + (dims * new_k_dim)[None, None, :]
            v_at = (rows_at * new_v_row + heads[:, None] * new_v_head)[:, :, None]
            v_at += (out_dims * new_v_dim)[None, None, :]
            k = tl.where(is_new, read(new_k + k_at, is_new & is_dim, 0, 0, ""), k)
            v = tl.where(is_new, read(new_v + v_at, is_new & is_out_dim, 0, 0, ""), v)
        scores = tl.sum(queries[:, :, None, :] * k[:, None, :, :], 3)
        if rope is not None:
            rope_keys = pages * rope_page + along(slots, rope_slow_slot, rope_slot, K_SLOT_CUT)
            rope_at = rope + rope_keys[:, :, None] + (rope_dims * rope_dim)[None, None, :]
            roped = read(rope_at, is_token, rope_byte, 0, ROPE_OF)
            if k_scale is not None and K_SCALE_OF == "":  # one that is given is of all of K
                roped *= k_factors
            scores += tl.sum(rope_queries[:, :, None, :] * roped[:, None, :, :], 3)
        scores *= sm_scale
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
        mixed = mixed * fade[:, :, None] + tl.sum(p[:, :, :, None] * v[:, None, :, :], 2)
        top = new_top
        done += KEYS

    denominator = tl.where(total == 0.0, 1.0, total)  # no keys: out 0, lse -inf
    out = tl.div_rn(mixed, tl.broadcast_to(denominator[:, :, None], [TASKS, QUERIES * GROUP, V_DIMS]))
    out_at = (splits * out_split)[:, None] + q_rows * out_row + q_heads * out_head
    lse_at = (splits * lse_split)[:, None] + q_rows * lse_row + q_heads * lse_head
    out = narrow(out, outs.dtype.element_ty)
    out_at = (outs + out_at)[:, :, None] + (out_dims * out_dim)[None, None, :]
    tl.store(out_at, out, mask=is_row[:, :, None] & is_out_dim)
    tl.store(lses + lse_at, top + tl.log(denominator), mask=is_row)


def workspace_bytes(q: torch.Tensor, v_head_dim: int, num_splits: int) -> int:
    """The partial results of splits, float32; none where there is one split, whose results are stored at once."""
    num_rows, num_q_heads, _ = q.shape
    return num_splits * num_rows * num_q_heads * (v_head_dim + 1) * 4 if num_splits > 1 else 0


def _partials(
    q: torch.Tensor, v_head_dim: int, num_splits: int, workspace: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Their outs and lses, in memory that is given or in their own."""
    shape = (num_splits, *q.shape[:2], v_head_dim)
    if workspace is None:
        workspace = q.new_empty(workspace_bytes(q, v_head_dim, num_splits), dtype=torch.uint8)
    outs, lses = workspace.view(torch.float32).split([math.prod(shape), math.prod(shape[:-1])])
    return outs.view(shape), lses.view(shape[:-1])


def paged_decode(
    q: torch.Tensor,
    k: list[Numbers],
    v: list[Numbers],
    table: Table,
    kv_lens: torch.Tensor,
    sm_scale: float,
    num_splits: int,
    *,
    scales: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
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
    """out in q's dtype and lse, [num_q_rows, num_q_heads, width of V] and [num_q_rows, num_q_heads].

    k, v              what K and V consist of (`torch_kernels/views.py`): one part each, or in K a rope behind it
    scales            given for K and for V (`pages.scale_of`)
    new               K and V of the newest tokens, one of each query row: they are written into the cache, too
    into, workspace   where results, and partial ones, are written, if it is given
    """
    (num_rows, num_q_heads, _), (of_k, *rope), (of_v,) = q.shape, k, v
    num_seqs, num_kv_heads = len(kv_lens), of_k.codes.num_heads
    head_dim, v_head_dim = of_k.codes.num_values, of_v.codes.num_values
    kv_lens = tables.lengths(table, kv_lens, of_k.codes.page_size)
    group = num_q_heads // num_kv_heads
    if num_splits == 1:
        outs = (q.new_empty(num_rows, num_q_heads, v_head_dim) if into[0] is None else into[0])[None]
        lses = (q.new_empty(num_rows, num_q_heads, dtype=torch.float32) if into[1] is None else into[1])[None]
    else:
        outs, lses = _partials(q, v_head_dim, num_splits, workspace)
    group_block = triton.next_power_of_2(group)
    k_block, v_block = (max(32, triton.next_power_of_2(dim)) for dim in (head_dim, v_head_dim))
    queries, num_blocks, q_starts = 1, num_seqs, None
    if new is not None and q_lens is None:
        q_lens = torch.ones_like(kv_lens)
    if q_lens is not None:
        queries = max(1, MOST_ROWS // group_block)
        num_blocks = num_rows // queries + num_seqs
        q_starts = torch.nn.functional.pad(q_lens.cumsum(0), (1, 0))
    num_tasks = num_splits * num_blocks * num_kv_heads
    room = MOST_PRODUCTS // (queries * group_block * TILE * max(k_block, v_block))
    tasks_block = min(MOST_TASKS, triton.next_power_of_2(max(1, num_tasks)), max(1, room))
    (k_codes, k_of), (v_codes, v_of) = numbers(of_k.codes), numbers(of_v.codes)
    rope_arguments, rope_of = _rope(rope[0].codes) if rope else ([None, 0, 0, 0, 0, 0], "")
    launch.launch(
        _decode,
        (triton.cdiv(num_tasks, tasks_block),),
        *strided(q, k_codes, v_codes),
        *scale_of(of_k.scale, scales[0]),
        *scale_of(of_v.scale, scales[1]),
        *rope_arguments,
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
        v_head_dim,
        of_k.codes.page_size,
        num_splits,
        sm_scale,
        **cuts(k_codes, "K_"),
        **cuts(v_codes, "V_"),
        K_UNIT=unit(k_codes),
        V_UNIT=unit(v_codes),
        K_OF=k_of,
        V_OF=v_of,
        ROPE_OF=rope_of,
        K_IN_BYTE=8 // min(8, width(of_k.codes.of)),
        V_IN_BYTE=8 // min(8, width(of_v.codes.of)),
        K_SCALE_CUT=0 if of_k.scale is None else cut(of_k.scale.tensor, "slot"),
        V_SCALE_CUT=0 if of_v.scale is None else cut(of_v.scale.tensor, "slot"),
        K_SHARE=shared(of_k),
        V_SHARE=shared(of_v),
        K_SCALE_OF="" if of_k.scale is None else numbers(of_k.scale)[1],
        V_SCALE_OF="" if of_v.scale is None else numbers(of_v.scale)[1],
        OF_TOKENS=tables.of_tokens(table),
        TASKS=tasks_block,
        QUERIES=queries,
        GROUP=group_block,
        KEYS=TILE,
        DIMS=k_block,
        V_DIMS=v_block,
        ROPE=rope[0].codes.num_values if rope else 0,
        num_warps=4 if queries * group_block * max(k_block, v_block) <= 512 else 8,
    )
    return (outs[0], lses[0]) if num_splits == 1 else merge_states(outs, lses, q.dtype, into)


def _rope(view: View) -> tuple[list[Any], str]:
    """A rope as `_decode` takes it, and the type of its numbers."""
    tensor, of = numbers(view)
    page, slow_slot, slot, _, _, _, dim = tensor.stride()
    return [tensor, page, slow_slot, slot, dim * (width(view.of) // (8 * tensor.itemsize)), dim], of


def _optional(tensor: torch.Tensor | None) -> tuple[torch.Tensor | None, int]:
    """A tensor of one axis and its stride, as `_decode` takes them."""
    return (None, 0) if tensor is None else (tensor, tensor.stride(0))
