"""How kernels find the tokens of a sequence in a page table of any form: a row of entries, of pages or of slots."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kvconform.impls.torch_kernels.tables import Table


@triton.jit
def row_of(entries, entries_seq, entries_step, begins, begins_step, seqs, mask):
    """Where the entries of each sequence begin; begins: kv_indptr, None where every sequence has a row of its own."""
    if begins is None:
        first = seqs * entries_seq
    else:
        first = tl.load(begins + seqs * begins_step, mask=mask, other=0).to(tl.int64) * entries_step
    return entries + first


@triton.jit
def place(rows, entries_step, positions, mask, page_size, OF_TOKENS: tl.constexpr):
    """Pages and slots of positions, by where the entries of their sequences begin."""
    if OF_TOKENS:
        found = tl.load(rows + positions * entries_step, mask=mask, other=0).to(tl.int64)
        pages, slots = found // page_size, found % page_size
    else:
        pages = tl.load(rows + positions // page_size * entries_step, mask=mask, other=0).to(tl.int64)
        slots = positions % page_size
    return pages, slots


def listed(table: Table) -> tuple[torch.Tensor | int | None, ...]:
    """kv_indptr and its stride, None and 0 in a block table; the entries, their stride by sequence, and their own."""
    if isinstance(table, torch.Tensor):
        return None, 0, table, *table.stride()
    begins, entries = table["kv_indptr"], table["kv_indices"]
    return begins, begins.stride(0), entries, 0, entries.stride(0)
