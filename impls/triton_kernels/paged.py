"""append and gather: tokens into pages and out of them."""

from __future__ import annotations

import torch
import triton.language as tl

from kvconform.impls.triton_kernels import blocks, launch
from kvconform.impls.triton_kernels.blocks import block, in_slot, in_token
from kvconform.impls.triton_kernels.pages import CODES, Cache, chunk_width, sides, strided, words


@launch.kernel("k_inner", "v_inner", "k_dim", "v_dim", "head_dim")
def _append(
    k_cache, k_page, k_slot, k_head, k_chunk, k_inner, v_cache, v_page, v_slot, v_head, v_chunk, v_inner,
    k, k_token, k_of_head, k_dim, v, v_token, v_of_head, v_dim,
    num_elements, head_dim, page_size,
    slot_mapping, slot_step, num_tokens,
    HAS_V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Slot -1 skips the token."""
    tokens, is_token = block(0, num_tokens, TOKENS)
    elements, is_element = block(1, num_elements, ELEMENTS)
    where = tl.load(slot_mapping + tokens * slot_step, mask=is_token, other=-1).to(tl.int64)
    pages, slots = where // page_size, where % page_size
    mask = (where >= 0)[:, None] & is_element[None, :]
    read = (tokens * k_token)[:, None] + in_token(elements, head_dim, k_of_head, k_dim)[None, :]
    to = (pages * k_page + slots * k_slot)[:, None]
    to += in_slot(elements, head_dim, k_head, k_chunk, k_inner, K_WIDTH)[None, :]
    tl.store(k_cache + to, tl.load(k + read, mask=mask), mask=mask)
    if HAS_V:
        read = (tokens * v_token)[:, None] + in_token(elements, head_dim, v_of_head, v_dim)[None, :]
        to = (pages * v_page + slots * v_slot)[:, None]
        to += in_slot(elements, head_dim, v_head, v_chunk, v_inner, V_WIDTH)[None, :]
        tl.store(v_cache + to, tl.load(v + read, mask=mask), mask=mask)


@launch.kernel("k_inner", "v_inner", "k_dim", "v_dim", "head_dim")
def _gather(
    k_cache, k_page, k_slot, k_head, k_chunk, k_inner, v_cache, v_page, v_slot, v_head, v_chunk, v_inner,
    k, k_token, k_of_head, k_dim, v, v_token, v_of_head, v_dim,
    num_elements, head_dim, page_size,
    block_table, table_seq, table_column, kv_lens, lens_step, starts, num_tokens, capacity,
    HAS_V: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr, TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Tokens are counted dead ones included, `capacity` a sequence. Table entries without a live token are not read."""
    tokens, is_token = block(0, num_tokens, TOKENS)
    elements, is_element = block(1, num_elements, ELEMENTS)
    seqs, positions = tokens // capacity, tokens % capacity
    is_live = positions < tl.load(kv_lens + seqs * lens_step, mask=is_token, other=0)
    entries = block_table + seqs * table_seq + positions // page_size * table_column
    pages, slots = tl.load(entries, mask=is_live, other=0).to(tl.int64), positions % page_size
    rows = tl.load(starts + seqs, mask=is_live, other=0) + positions
    mask = is_live[:, None] & is_element[None, :]
    read = (pages * k_page + slots * k_slot)[:, None]
    read += in_slot(elements, head_dim, k_head, k_chunk, k_inner, K_WIDTH)[None, :]
    to = (rows * k_token)[:, None] + in_token(elements, head_dim, k_of_head, k_dim)[None, :]
    tl.store(k + to, tl.load(k_cache + read, mask=mask), mask=mask)
    if HAS_V:
        read = (pages * v_page + slots * v_slot)[:, None]
        read += in_slot(elements, head_dim, v_head, v_chunk, v_inner, V_WIDTH)[None, :]
        to = (rows * v_token)[:, None] + in_token(elements, head_dim, v_of_head, v_dim)[None, :]
        tl.store(v + to, tl.load(v_cache + read, mask=mask), mask=mask)


def append(cache: Cache, k: torch.Tensor, v: torch.Tensor | None, slot_mapping: torch.Tensor, layout: str) -> None:
    """Write k and v [num_tokens, num_kv_heads, head_dim] into their slots; codes [num_tokens, dim] have no v."""
    rows = [one.unsqueeze(1) if layout in CODES else one for one in (k, v) if one is not None]
    _move(_append, sides(cache, layout), rows, len(k), *strided(slot_mapping), len(k))


def gather(
    cache: Cache, block_table: torch.Tensor, kv_lens: torch.Tensor, layout: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """K and V of the live tokens, sequence after sequence."""
    pages = sides(cache, layout)
    _, page_size, num_kv_heads, num_chunks, inner = pages[0].shape
    num_seqs, width = block_table.shape
    total, starts = int(kv_lens.sum()), kv_lens.cumsum(0, dtype=torch.int64) - kv_lens
    rows = [side.new_empty(total, num_kv_heads, num_chunks * inner) for side in pages]
    capacity = width * page_size
    tables = (*strided(block_table, kv_lens), starts)
    _move(_gather, pages, rows, num_seqs * capacity, *tables, num_seqs * capacity, capacity)
    k, *v = (one.squeeze(1) for one in rows) if layout in CODES else rows
    return k, v[0] if v else None


def _move(kernel, pages: list[torch.Tensor], rows: list[torch.Tensor], num_tokens: int, *arguments) -> None:
    """Start append or gather on one side or both; without V the kernel is given K again, and HAS_V leaves it alone.

    pages       [page, slot, head, chunk, inner]
    rows        [token, head, dim]
    num_tokens  that the grid has to cover
    arguments   what is the kernel's own, in order
    """
    k_cache, v_cache, k, v = words(pages[0], pages[-1], rows[0], rows[-1])
    _, page_size, num_kv_heads, num_chunks, inner = k_cache.shape
    num_elements, head_dim = num_kv_heads * num_chunks * inner, num_chunks * inner
    launch.launch(
        kernel,
        blocks.count(num_tokens, num_elements),
        *strided(k_cache, v_cache, k, v),
        num_elements,
        head_dim,
        page_size,
        *arguments,
        HAS_V=len(pages) == 2,
        K_WIDTH=chunk_width(k_cache),
        V_WIDTH=chunk_width(v_cache),
        **blocks.SIZES,
    )
