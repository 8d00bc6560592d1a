"""append and gather: the tokens of one part into pages and out of them."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kvconform.impls.torch_kernels import tables
from kvconform.impls.torch_kernels.tables import Table
from kvconform.impls.torch_kernels.views import View
from kvconform.impls.triton_kernels import blocks, launch
from kvconform.impls.triton_kernels.blocks import along, block, in_token
from kvconform.impls.triton_kernels.pages import cuts, strided, words
from kvconform.impls.triton_kernels.tables import listed, place, row_of


@triton.jit
def _in_cache(
    pages, slots, elements, head_dim, page, slow_slot, slot, slow_head, head, slow_dim, dim,
    SLOT_CUT: tl.constexpr, HEAD_CUT: tl.constexpr, DIM_CUT: tl.constexpr,
):  # fmt: skip
    """Offsets [token, element] in a view of a cache."""
    of_elements = along(elements // head_dim, slow_head, head, HEAD_CUT)
    of_elements += along(elements % head_dim, slow_dim, dim, DIM_CUT)
    return (pages * page + along(slots, slow_slot, slot, SLOT_CUT))[:, None] + of_elements[None, :]


@launch.kernel("dim", "row_dim", "head_dim")
def _append(
    cache, page, slow_slot, slot, slow_head, head, slow_dim, dim, rows, row_token, row_head, row_dim,
    num_elements, head_dim, page_size, slot_mapping, slot_step, num_tokens, num_slots,
    SLOT_CUT: tl.constexpr, HEAD_CUT: tl.constexpr, DIM_CUT: tl.constexpr,
    TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """A slot below 0, or beyond the last one, skips the token. Of two tokens for one slot neither need stay whole."""
    tokens, is_token = block(0, num_tokens, TOKENS)
    elements, is_element = block(1, num_elements, ELEMENTS)
    where = tl.load(slot_mapping + tokens * slot_step, mask=is_token, other=-1).to(tl.int64)
    mask = ((where >= 0) & (where < num_slots))[:, None] & is_element[None, :]
    read = (tokens * row_token)[:, None] + in_token(elements, head_dim, row_head, row_dim)[None, :]
    to = _in_cache(
        where // page_size, where % page_size, elements, head_dim, page, slow_slot, slot, slow_head, head, slow_dim,
        dim, SLOT_CUT, HEAD_CUT, DIM_CUT,
    )  # fmt: skip
    tl.store(cache + to, tl.load(rows + read, mask=mask), mask=mask)


@launch.kernel("dim", "row_dim", "head_dim")
def _gather(
    cache, page, slow_slot, slot, slow_head, head, slow_dim, dim, rows, row_token, row_head, row_dim,
    num_elements, head_dim, page_size,
    begins, begins_step, entries, entries_seq, entries_step, kv_lens, lens_step, starts, num_tokens, capacity,
    SLOT_CUT: tl.constexpr, HEAD_CUT: tl.constexpr, DIM_CUT: tl.constexpr,
    OF_TOKENS: tl.constexpr, TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Tokens are counted dead ones included, `capacity` a sequence. Table entries without a live token are not read."""
    tokens, is_token = block(0, num_tokens, TOKENS)
    elements, is_element = block(1, num_elements, ELEMENTS)
    seqs, positions = tokens // capacity, tokens % capacity
    is_live = positions < tl.load(kv_lens + seqs * lens_step, mask=is_token, other=0)
    rows_of = row_of(entries, entries_seq, entries_step, begins, begins_step, seqs, is_live)
    pages, slots = place(rows_of, entries_step, positions, is_live, page_size, OF_TOKENS)
    mask = is_live[:, None] & is_element[None, :]
    read = _in_cache(
        pages, slots, elements, head_dim, page, slow_slot, slot, slow_head, head, slow_dim, dim,
        SLOT_CUT, HEAD_CUT, DIM_CUT,
    )  # fmt: skip
    to = (tl.load(starts + seqs, mask=is_live, other=0) + positions) * row_token
    to = to[:, None] + in_token(elements, head_dim, row_head, row_dim)[None, :]
    tl.store(rows + to, tl.load(cache + read, mask=mask), mask=mask)


def append(view: View, rows: torch.Tensor, slot_mapping: torch.Tensor) -> None:
    """Write rows [num_tokens, num_heads, head_dim] into their slots."""
    _move(_append, view, rows, len(rows), *strided(slot_mapping), len(rows), view.num_slots)


def gather(view: View, table: Table, kv_lens: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """The live tokens, sequence after sequence, [num_tokens, num_heads, head_dim]; in `rows` where they are given."""
    kv_lens = tables.lengths(table, kv_lens, view.page_size)
    num_seqs = len(kv_lens)
    total, starts = int(kv_lens.sum()), kv_lens.cumsum(0, dtype=torch.int64) - kv_lens
    rows = view.tensor.new_empty(total, view.num_heads, view.head_dim) if rows is None else rows
    capacity = tables.room(table, view.page_size)
    told = (*listed(table), *strided(kv_lens), starts, num_seqs * capacity, capacity)
    _move(_gather, view, rows, num_seqs * capacity, *told, OF_TOKENS=tables.of_tokens(table))
    return rows


def _move(kernel: Any, view: View, rows: torch.Tensor, num_tokens: int, *arguments: Any, **constants: Any) -> None:
    """Start append or gather.

    num_tokens  that the grid has to cover
    arguments, constants   what is the kernel's own, in order, and by name
    """
    cache, rows = words(view.tensor, rows)
    head_dim = rows.shape[2]
    num_elements = view.num_heads * head_dim
    launch.launch(
        kernel,
        blocks.count(num_tokens, num_elements),
        *strided(cache, rows),
        num_elements,
        head_dim,
        view.page_size,
        *arguments,
        **constants,
        **cuts(cache),
        **blocks.SIZES,
    )
