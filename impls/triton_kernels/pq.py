"""Product-quantised K and V in Triton. All arithmetic is float32; results are rounded once, when they are stored.

A distance is the sum of squared differences, summed directly. Of attention, a table of q against all centroids is made
beforehand, one of each q head; a score is a sum over subspaces of its entries, and no chain of additions is longer than
a dot of head_dim. V is decoded on the fly. Splits of the codes, and the rows that are not yet encoded, are partial
results; one merge makes them one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from kvconform.impls.torch_kernels import codes as coded
from kvconform.impls.torch_kernels.codes import Codes
from kvconform.impls.triton_kernels import COMPILED, blocks, launch
from kvconform.impls.triton_kernels.blocks import block
from kvconform.impls.triton_kernels.decode import MOST_PRODUCTS, MOST_TASKS, TILE
from kvconform.impls.triton_kernels.formats import widen
from kvconform.impls.triton_kernels.merge import merge_states
from kvconform.impls.triton_kernels.pages import strided, words

DIFFERENCES = 4096 if COMPILED else MOST_PRODUCTS
"""Of one program that encodes, at a time; the interpreter pays by the program, whatever its size."""

CENTROIDS = 64
"""That a part of a row is held against at a time."""

# --- codes


@triton.jit
def _byte_of(
    page, slot, subspace, pages, slots, subspaces, SLOTS_SHARED: tl.constexpr, SUBSPACES_SHARED: tl.constexpr
):  # fmt: skip
    """Offsets of the bytes that codes lie in, and by how many bits they are shifted; pages, slots, subspaces broadcast.

    SHARED   how many neighbours are in one byte
    """
    at = pages * page + slots // SLOTS_SHARED * slot + subspaces // SUBSPACES_SHARED * subspace
    return at, ((slots % SLOTS_SHARED + subspaces % SUBSPACES_SHARED) * 4).to(tl.int32)


@triton.jit
def _read(
    codes, page, slot, subspace, pages, slots, subspaces, mask, num_centroids,
    SLOTS_SHARED: tl.constexpr, SUBSPACES_SHARED: tl.constexpr,
):  # fmt: skip
    """int32 codes, each of which is the index of a centroid whatever lies there; 0 where they are masked."""
    at, shift = _byte_of(page, slot, subspace, pages, slots, subspaces, SLOTS_SHARED, SUBSPACES_SHARED)
    byte = tl.load(codes + at, mask=mask, other=0).to(tl.int32)
    if SLOTS_SHARED * SUBSPACES_SHARED > 1:
        byte = (byte >> shift) & 15
    return tl.minimum(byte, num_centroids - 1)


@launch.kernel("x_dim", "book_dim")
def _encode(
    x, x_token, x_head, x_dim, books, book_subspace, book_centroid, book_dim, codes,
    num_rows, num_heads, num_subspaces, num_centroids,
    SUB_DIM: tl.constexpr, ROWS: tl.constexpr, SUBSPACES: tl.constexpr, CENTROIDS: tl.constexpr,
):  # fmt: skip
    """codes [num_rows, num_subspaces], a byte each, a row a token and a head: of the nearest centroids the lowest."""
    rows, is_row = block(0, num_rows, ROWS)
    subspaces, is_subspace = block(1, num_subspaces, SUBSPACES)
    is_part = is_row[:, None] & is_subspace[None, :]
    x_at = x + (rows // num_heads * x_token + rows % num_heads * x_head)[:, None]
    nearest = tl.full([ROWS, SUBSPACES], float("inf"), tl.float32)
    found = tl.full([ROWS, SUBSPACES], 0, tl.int32)
    done = 0
    while done < num_centroids:
        centroids = done + tl.arange(0, CENTROIDS)
        is_centroid = centroids < num_centroids
        is_book = is_subspace[:, None] & is_centroid[None, :]
        book_at = books + (subspaces * book_subspace)[:, None] + (centroids.to(tl.int64) * book_centroid)[None, :]
        distances = tl.full([ROWS, SUBSPACES, CENTROIDS], 0.0, tl.float32)
        for dim in range(SUB_DIM):
            part = tl.load(x_at + ((subspaces * SUB_DIM + dim) * x_dim)[None, :], mask=is_part, other=0.0)
            centre = tl.load(book_at + dim * book_dim, mask=is_book, other=0.0)
            difference = widen(part)[:, :, None] - widen(centre)[None, :, :]
            distances += difference * difference
        is_near = is_centroid[None, None, :] & (
            distances == distances
        )  # NaN is not; a row of it, which is skipped, may be
        distances = tl.where(is_near, distances, float("inf"))
        least = tl.min(distances, 2)
        lowest = tl.min(tl.where(distances == least[:, :, None], centroids[None, None, :], num_centroids), 2)
        found = tl.where(least < nearest, lowest, found)  # of those before and these, too, the lower one
        nearest = tl.minimum(nearest, least)
        done += CENTROIDS
    tl.store(codes + rows[:, None] * num_subspaces + subspaces[None, :], found.to(tl.uint8), mask=is_part)


@launch.kernel()
def _place(
    pool, page, slot, subspace, codes, slot_mapping, slot_token, slot_head,
    num_rows, num_heads, num_subspaces, page_size, num_slots, turn,
    SLOTS_SHARED: tl.constexpr, SUBSPACES_SHARED: tl.constexpr, TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Codes [num_rows, num_subspaces], a byte each, into their slots; a row is a token and a head.

    A slot below 0, or beyond the last one, skips the row; with no mapping a token is a page, and a head a slot.
    Neighbours that share a byte are written in turns, each in a launch of its own: nobody else has the byte meanwhile.
    """
    rows, is_row = block(0, num_rows, TOKENS)
    subspaces, is_subspace = block(1, num_subspaces, ELEMENTS)
    tokens, heads = rows // num_heads, rows % num_heads
    if slot_mapping is None:
        where = rows
    else:
        where = tl.load(slot_mapping + tokens * slot_token + heads * slot_head, mask=is_row, other=-1).to(tl.int64)
    mask = (is_row & (where >= 0) & (where < num_slots))[:, None] & is_subspace[None, :]
    at, shift = _byte_of(
        page, slot, subspace, (where // page_size)[:, None], (where % page_size)[:, None], subspaces[None, :],
        SLOTS_SHARED, SUBSPACES_SHARED,
    )  # fmt: skip
    code = tl.load(codes + rows[:, None] * num_subspaces + subspaces[None, :], mask=mask, other=0).to(tl.int32)
    if SLOTS_SHARED * SUBSPACES_SHARED > 1:
        mask &= shift == turn
        others = tl.load(pool + at, mask=mask, other=0).to(tl.int32) & (240 >> turn)
        code = others | (code << turn)
    tl.store(pool + at, code.to(tl.uint8), mask=mask)


@launch.kernel("out_dim", "book_dim")
def _centroids(
    codes, page, slot, subspace, books, book_subspace, book_centroid, book_dim, out, out_token, out_head, out_dim,
    num_rows, num_heads, num_elements, sub_dim, num_centroids,
    SUBSPACES_SHARED: tl.constexpr, TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Elements of centroids, integers of some width, side by side; a row is a token and a head."""
    rows, is_row = block(0, num_rows, TOKENS)
    elements, is_element = block(1, num_elements, ELEMENTS)
    mask = is_row[:, None] & is_element[None, :]
    tokens, heads, subspaces = (rows // num_heads)[:, None], (rows % num_heads)[:, None], (elements // sub_dim)[None, :]
    found = _read(
        codes, page, slot, subspace, tokens, heads, subspaces, mask, num_centroids, 1, SUBSPACES_SHARED
    )  # fmt: skip
    read = subspaces * book_subspace + found.to(tl.int64) * book_centroid + (elements % sub_dim * book_dim)[None, :]
    to = tokens * out_token + heads * out_head + (elements * out_dim)[None, :]
    tl.store(out + to, tl.load(books + read, mask=mask), mask=mask)


def pq_encode(
    x: torch.Tensor, codebooks: torch.Tensor, *, dtype: str = "uint8", num_subspaces: int | None = None
) -> torch.Tensor:
    """Codes [num_tokens, num_kv_heads, subspace], packed, of x [num_tokens, num_kv_heads, head_dim]."""
    coded.require_codebooks("codebooks", codebooks, dtype, num_subspaces)
    coded.require_rows("x", x, codebooks)
    coded.require_nearest("x", x, codebooks)
    nearest = _nearest(x, codebooks)
    if coded.bits_of(dtype) == 8:
        return nearest
    codes = nearest.new_zeros(coded.packed_shape(x, codebooks, dtype))
    _write(coded.rows_of("codes", codes, len(codebooks), dtype), nearest, None)
    return codes


def pq_decode(
    codes: torch.Tensor, codebooks: torch.Tensor, *, dtype: str = "uint8", num_subspaces: int | None = None
) -> torch.Tensor:
    """Centroids, bit for bit, [num_tokens, num_kv_heads, head_dim]."""
    coded.require_codebooks("codebooks", codebooks, dtype, num_subspaces)
    side = coded.rows_of("codes", codes, len(codebooks), dtype)
    num_tokens, num_heads, _ = codes.shape
    coded.require_decode(side, codebooks)
    out = codebooks.new_empty(num_tokens, num_heads, len(codebooks) * codebooks.shape[2])
    books, elements = words(codebooks, out)
    launch.launch(
        _centroids,
        blocks.count(num_tokens * num_heads, elements.shape[2]),
        *strided(side.tensor, books, elements),
        num_tokens * num_heads,
        num_heads,
        elements.shape[2],
        books.shape[2],
        books.shape[1],
        SUBSPACES_SHARED=side.shared[1],
        **blocks.SIZES,
    )
    return out


def pq_append(
    cache: Mapping[str, torch.Tensor],
    k: torch.Tensor,
    v: torch.Tensor,
    k_codebooks: torch.Tensor,
    v_codebooks: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    layout: str,
    dtype: str,
    page_size: int,
    num_subspaces: int,
) -> Mapping[str, torch.Tensor]:
    """Codes of k and v into their slots; one below 0 skips its token, as on a GPU one beyond the last does."""
    both, books = coded.sides(cache, layout, dtype, page_size, num_subspaces), (k_codebooks, v_codebooks)
    coded.require_append(both, (k, v), books, slot_mapping, dtype)
    for side, rows, codebooks in zip(both, (k, v), books, strict=True):
        _write(side, _nearest(rows, codebooks), slot_mapping)
    return cache


def _nearest(x: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """uint8 codes [num_tokens, num_kv_heads, num_subspaces], a byte each."""
    (num_tokens, num_heads, _), (num_subspaces, num_centroids, sub_dim) = x.shape, codebooks.shape
    codes = x.new_empty(num_tokens, num_heads, num_subspaces, dtype=torch.uint8)
    num_rows, centroids = num_tokens * num_heads, min(CENTROIDS, triton.next_power_of_2(num_centroids))
    parts = DIFFERENCES // centroids
    rows = min(16 if COMPILED else parts, triton.next_power_of_2(max(1, num_rows)))
    subspaces = min(parts // rows, triton.next_power_of_2(num_subspaces))
    launch.launch(
        _encode,
        (triton.cdiv(num_rows, rows), triton.cdiv(num_subspaces, subspaces)),
        *strided(x, codebooks),
        codes,
        num_rows,
        num_heads,
        num_subspaces,
        num_centroids,
        SUB_DIM=sub_dim,
        ROWS=rows,
        SUBSPACES=subspaces,
        CENTROIDS=centroids,
    )
    return codes


def _write(side: Codes, codes: torch.Tensor, slot_mapping: torch.Tensor | None) -> None:
    """Codes [num_tokens, num_kv_heads, num_subspaces] into their slots; no mapping: each token is a page of heads."""
    num_tokens, num_heads, num_subspaces = codes.shape
    for turn in range(0, 8, side.bits):
        launch.launch(
            _place,
            blocks.count(num_tokens * num_heads, num_subspaces),
            *strided(side.tensor),
            codes,
            *((None, 0, 0) if slot_mapping is None else strided(slot_mapping)),
            num_tokens * num_heads,
            num_heads,
            num_subspaces,
            side.page_size,
            side.num_slots,
            turn,
            **_shared(side),
            **blocks.SIZES,
        )


def _shared(side: Codes, prefix: str = "") -> dict[str, int]:
    """The constants that tell a kernel how codes share bytes; `prefix` goes before their names."""
    return {f"{prefix}{axis}_SHARED": n for axis, n in zip(("SLOTS", "SUBSPACES"), side.shared, strict=True)}


# --- attention


@launch.kernel("q_dim", "book_dim")
def _table(
    q, q_row, q_head, q_dim, books, book_subspace, book_centroid, book_dim, table,
    num_rows, num_heads, num_entries, num_centroids,
    SUB_DIM: tl.constexpr, TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """table [num_rows, num_entries]: parts of q times centroids; a row is a sequence and a q head, an entry a subspace
    and a centroid.
    """
    rows, is_row = block(0, num_rows, TOKENS)
    entries, is_entry = block(1, num_entries, ELEMENTS)
    subspaces, centroids = entries // num_centroids, entries % num_centroids
    q_at = (q + (rows // num_heads * q_row + rows % num_heads * q_head))[:, None]
    mask = is_row[:, None] & is_entry[None, :]
    dots = tl.full([TOKENS, ELEMENTS], 0.0, tl.float32)
    for dim in range(SUB_DIM):
        part = tl.load(q_at + ((subspaces * SUB_DIM + dim) * q_dim)[None, :], mask=mask, other=0.0)
        at = subspaces * book_subspace + centroids * book_centroid + dim * book_dim
        dots += widen(part) * widen(tl.load(books + at, mask=is_entry, other=0.0))[None, :]
    tl.store(table + rows[:, None] * num_entries + entries[None, :], dots, mask=mask)


@triton.jit
def _seen(top, total, mixed, scores, v):
    """A softmax that has seen some more keys: top, total [task, member], mixed [task, member, dim]; scores of keys
    [task, member, key], -inf where there is none, and v [task, key, dim].
    """
    new_top = tl.maximum(top, tl.max(scores, 2))
    reference = tl.where(new_top == float("-inf"), 0.0, new_top)
    fade, p = tl.exp(top - reference), tl.exp(scores - reference[:, :, None])
    return new_top, total * fade + tl.sum(p, 2), mixed * fade[:, :, None] + tl.sum(p[:, :, :, None] * v[:, None], 2)


@triton.jit
def _store(outs, lses, part_rows, head_dim, top, total, mixed, dims, is_row):
    """Partial results, float32 [part row, dim] and [part row]; without keys out is 0 and lse -inf."""
    denominator = tl.where(total == 0.0, 1.0, total)
    out = tl.div_rn(mixed, tl.broadcast_to(denominator[:, :, None], mixed.shape))
    at = part_rows[:, :, None] * head_dim + dims[None, None, :]
    tl.store(outs + at, out, mask=is_row[:, :, None] & (dims < head_dim)[None, None, :])
    tl.store(lses + part_rows, top + tl.log(denominator), mask=is_row)


@launch.kernel("v_book_dim")
def _split(
    table, k_codes, k_page, k_slot, k_subspace, v_codes, v_page, v_slot, v_subspace,
    books, book_subspace, book_centroid, book_dim,
    page_ids, ids_seq, ids_head, ids_step, kv_lens, lens_step, outs, lses,
    num_tasks, num_seqs, num_kv_heads, group, head_dim, num_subspaces, sub_dim, k_centroids, v_centroids,
    page_size, num_splits, sm_scale,
    K_SLOTS_SHARED: tl.constexpr, K_SUBSPACES_SHARED: tl.constexpr,
    V_SLOTS_SHARED: tl.constexpr, V_SUBSPACES_SHARED: tl.constexpr,
    TASKS: tl.constexpr, GROUP: tl.constexpr, KEYS: tl.constexpr, SUBSPACES: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """A task attends with all q heads of one kv head, of one sequence, to one split of its codes; a program has some
    tasks. Axes of blocks: task, member of the group, key, subspace or dim. What is no key is not looked at.
    """
    tasks, is_task = block(0, num_tasks, TASKS)
    heads, seqs = tasks % num_kv_heads, tasks // num_kv_heads % num_seqs
    splits = tasks // num_kv_heads // num_seqs
    members, subspaces = tl.arange(0, GROUP).to(tl.int64), tl.arange(0, SUBSPACES).to(tl.int64)
    dims = tl.arange(0, DIMS).to(tl.int64)
    is_row = is_task[:, None] & (members < group)[None, :]
    rows = (seqs * num_kv_heads + heads)[:, None] * group + members[None, :]
    is_subspace, is_dim = (subspaces < num_subspaces)[None, None, :], (dims < head_dim)[None, None, :]
    entries = (subspaces * k_centroids)[None, None, :]
    dim_subspaces, book_dims = (dims // sub_dim)[None, None, :], (dims % sub_dim * book_dim)[None, None, :]
    table_rows = table + (rows * num_subspaces * k_centroids)[:, :, None, None]

    lengths = tl.load(kv_lens + seqs * lens_step, mask=is_task, other=0).to(tl.int64)
    first, last = lengths * splits // num_splits, lengths * (splits + 1) // num_splits
    top = tl.full([TASKS, GROUP], float("-inf"), tl.float32)
    total = tl.full([TASKS, GROUP], 0.0, tl.float32)
    mixed = tl.full([TASKS, GROUP, DIMS], 0.0, tl.float32)
    longest, done = tl.max(last - first, 0), 0
    while done < longest:  # not `for`: see decode.py
        keys = (first + done)[:, None] + tl.arange(0, KEYS)[None, :]
        is_key = keys < last[:, None]
        ids_at = (seqs * ids_seq + heads * ids_head)[:, None] + keys // page_size * ids_step
        pages = tl.load(page_ids + ids_at, mask=is_key, other=0).to(tl.int64)[:, :, None]
        slots = (keys % page_size)[:, :, None]
        is_code = is_key[:, :, None] & is_subspace
        k = _read(
            k_codes, k_page, k_slot, k_subspace, pages, slots, subspaces[None, None, :], is_code, k_centroids,
            K_SLOTS_SHARED, K_SUBSPACES_SHARED,
        )  # fmt: skip
        is_entry = is_row[:, :, None, None] & is_code[:, None]
        scores = tl.sum(tl.load(table_rows + (entries + k)[:, None], mask=is_entry, other=0.0), 3) * sm_scale
        scores = tl.where(is_key[:, None, :], scores, float("-inf"))
        is_value = is_key[:, :, None] & is_dim
        v = _read(
            v_codes, v_page, v_slot, v_subspace, pages, slots, dim_subspaces, is_value, v_centroids,
            V_SLOTS_SHARED, V_SUBSPACES_SHARED,
        )  # fmt: skip
        book_at = dim_subspaces * book_subspace + v.to(tl.int64) * book_centroid + book_dims
        values = widen(tl.load(books + book_at, mask=is_value, other=0.0))
        top, total, mixed = _seen(top, total, mixed, scores, values)
        done += KEYS
    part_rows = splits[:, None] * num_seqs * num_kv_heads * group + rows
    _store(outs, lses, part_rows, head_dim, top, total, mixed, dims, is_row)


@launch.kernel("q_dim", "k_dim", "v_dim")
def _residual(
    q, q_row, q_head, q_dim, k, k_seq, k_slot, k_head, k_dim, v, v_seq, v_slot, v_head, v_dim,
    residual_lens, lens_step, outs, lses, num_tasks, num_kv_heads, group, head_dim, sm_scale,
    TASKS: tl.constexpr, GROUP: tl.constexpr, KEYS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """The same over rows that are not encoded: a task has all of those of one kv head of one sequence."""
    tasks, is_task = block(0, num_tasks, TASKS)
    heads, seqs = tasks % num_kv_heads, tasks // num_kv_heads
    members, dims = tl.arange(0, GROUP).to(tl.int64), tl.arange(0, DIMS).to(tl.int64)
    is_row = is_task[:, None] & (members < group)[None, :]
    is_dim = (dims < head_dim)[None, None, :]
    q_at = (seqs * q_row)[:, None] + (heads[:, None] * group + members[None, :]) * q_head
    q_at = q_at[:, :, None] + (dims * q_dim)[None, None, :]
    queries = widen(tl.load(q + q_at, mask=is_row[:, :, None] & is_dim, other=0.0))
    k_at, v_at = (seqs * k_seq + heads * k_head)[:, None], (seqs * v_seq + heads * v_head)[:, None]
    lengths = tl.load(residual_lens + seqs * lens_step, mask=is_task, other=0)
    top = tl.full([TASKS, GROUP], float("-inf"), tl.float32)
    total = tl.full([TASKS, GROUP], 0.0, tl.float32)
    mixed = tl.full([TASKS, GROUP, DIMS], 0.0, tl.float32)
    longest, done = tl.max(lengths, 0), 0
    while done < longest:
        keys = done + tl.arange(0, KEYS).to(tl.int64)[None, :]
        is_key = keys < lengths[:, None]
        is_read = is_key[:, :, None] & is_dim
        k_rows = k + (k_at + keys * k_slot)[:, :, None] + (dims * k_dim)[None, None, :]
        v_rows = v + (v_at + keys * v_slot)[:, :, None] + (dims * v_dim)[None, None, :]
        given = widen(tl.load(k_rows, mask=is_read, other=0.0))
        scores = tl.sum(queries[:, :, None, :] * given[:, None], 3) * sm_scale
        scores = tl.where(is_key[:, None, :], scores, float("-inf"))
        values = widen(tl.load(v_rows, mask=is_read, other=0.0))
        top, total, mixed = _seen(top, total, mixed, scores, values)
        done += KEYS
    rows = (seqs * num_kv_heads + heads)[:, None] * group + members[None, :]
    _store(outs, lses, rows, head_dim, top, total, mixed, dims, is_row)


def pq_decode_attention(
    q: torch.Tensor,
    cache: Mapping[str, torch.Tensor],
    k_codebooks: torch.Tensor,
    v_codebooks: torch.Tensor,
    page_ids: torch.Tensor,
    kv_lens: torch.Tensor,
    residual_k: torch.Tensor,
    residual_v: torch.Tensor,
    residual_lens: torch.Tensor,
    *,
    layout: str,
    dtype: str,
    page_size: int,
    num_subspaces: int,
    sm_scale: float | None = None,
    num_splits: int = 1,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one query token a sequence over codes, in splits, and over what is not encoded, one part more."""
    k, v = coded.sides(cache, layout, dtype, page_size, num_subspaces)
    for name, codebooks in (("k_codebooks", k_codebooks), ("v_codebooks", v_codebooks)):
        coded.require_codebooks(name, codebooks, dtype, num_subspaces)
    residual = residual_k, residual_v
    coded.require_attention(q, (k, v), k_codebooks, v_codebooks, page_ids, kv_lens, residual, residual_lens, num_splits)
    (num_seqs, num_q_heads, head_dim), num_kv_heads = q.shape, residual_k.shape[2]
    sm_scale = head_dim**-0.5 if sm_scale is None else sm_scale
    group = num_q_heads // num_kv_heads
    outs = q.new_empty(num_splits + 1, num_seqs, num_q_heads, head_dim, dtype=torch.float32)
    lses = q.new_empty(num_splits + 1, num_seqs, num_q_heads, dtype=torch.float32)
    _attend_codes(
        q, (k, v), (k_codebooks, v_codebooks), page_ids, kv_lens, outs[:-1], lses[:-1], sm_scale, num_kv_heads
    )
    blocks_of = _tasks(num_seqs * num_kv_heads, group, head_dim)
    launch.launch(
        _residual,
        (triton.cdiv(num_seqs * num_kv_heads, blocks_of["TASKS"]),),
        *strided(q, residual_k, residual_v, residual_lens),
        outs[-1],
        lses[-1],
        num_seqs * num_kv_heads,
        num_kv_heads,
        group,
        head_dim,
        sm_scale,
        **blocks_of,
    )
    return merge_states(outs, lses, q.dtype, (out, lse))


def _attend_codes(
    q: torch.Tensor,
    both: tuple[Codes, Codes],
    books: tuple[torch.Tensor, torch.Tensor],
    page_ids: torch.Tensor,
    kv_lens: torch.Tensor,
    outs: torch.Tensor,
    lses: torch.Tensor,
    sm_scale: float,
    num_kv_heads: int,
) -> None:
    """Partial results of the splits of codes; outs and lses have one of each split first."""
    (num_seqs, num_q_heads, head_dim), (num_subspaces, num_centroids, sub_dim) = q.shape, books[0].shape
    num_entries, num_rows, num_splits = num_subspaces * num_centroids, num_seqs * num_q_heads, len(outs)
    table = q.new_empty(num_rows, num_entries, dtype=torch.float32)
    launch.launch(
        _table,
        blocks.count(num_rows, num_entries),
        *strided(q, books[0]),
        table,
        num_rows,
        num_q_heads,
        num_entries,
        num_centroids,
        SUB_DIM=sub_dim,
        **blocks.SIZES,
    )
    num_tasks, group = num_splits * num_seqs * num_kv_heads, num_q_heads // num_kv_heads
    blocks_of = _tasks(num_tasks, group, head_dim)
    launch.launch(
        _split,
        (triton.cdiv(num_tasks, blocks_of["TASKS"]),),
        table,
        *strided(both[0].tensor, both[1].tensor, books[1], page_ids, kv_lens),
        outs,
        lses,
        num_tasks,
        num_seqs,
        num_kv_heads,
        group,
        head_dim,
        num_subspaces,
        sub_dim,
        num_centroids,
        books[1].shape[1],
        both[0].page_size,
        num_splits,
        sm_scale,
        **_shared(both[0], "K_"),
        **_shared(both[1], "V_"),
        SUBSPACES=triton.next_power_of_2(num_subspaces),
        **blocks_of,
    )


def _tasks(num_tasks: int, group: int, head_dim: int) -> dict[str, Any]:
    """Sizes of the blocks of a program that attends."""
    members, dims = triton.next_power_of_2(group), max(32, triton.next_power_of_2(head_dim))
    room = max(1, MOST_PRODUCTS // (members * TILE * dims))
    return {
        "TASKS": min(MOST_TASKS, triton.next_power_of_2(max(1, num_tasks)), room),
        "GROUP": members,
        "KEYS": TILE,
        "DIMS": dims,
        "num_warps": 4 if members * dims <= 512 else 8,
    }
