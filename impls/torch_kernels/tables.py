"""Page tables: a block table [num_seqs, width], or a dict of arrays: of CSR, or of the slots of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

Table = Tensor | dict[str, Tensor]


def lengths(table: Table, kv_lens: Tensor, page_size: int) -> Tensor:
    """[num_seqs] tokens of each sequence: a dict says so itself."""
    if isinstance(table, Tensor):
        return kv_lens
    counts = table["kv_indptr"].diff()
    if "last_page_len" not in table:
        return counts
    return ((counts - 1) * page_size + table["last_page_len"]).masked_fill(counts == 0, 0)


def room(table: Table, page_size: int) -> int:
    """Positions of the longest sequence that the table has room for, one at least."""
    if isinstance(table, Tensor):
        return table.shape[-1] * page_size
    most = max(1, int(table["kv_indptr"].diff().max()))
    return most * page_size if "last_page_len" in table else most


def places(table: Table, seq: Tensor, position: Tensor, page_size: int) -> tuple[Tensor, Tensor]:
    """Pages and slots [*seq, *position], on from a sequence's end whatever the table has there."""
    column = position if of_tokens(table) else position // page_size
    lead = (..., *(None for _ in position.shape))
    if isinstance(table, Tensor):
        entries = table[seq[lead], column.clamp(max=table.shape[1] - 1)].long()
    else:
        indices = table["kv_indices"]
        entries = indices[(table["kv_indptr"][seq][lead] + column).clamp(max=len(indices) - 1)].long()
    if of_tokens(table):
        return entries.div(page_size, rounding_mode="floor"), entries.remainder(page_size)
    return entries, (position % page_size).expand_as(entries)


def of_tokens(table: Table) -> bool:
    """Whether its entries are slots of tokens, not pages."""
    return not isinstance(table, Tensor) and "last_page_len" not in table


def on(table: Table) -> torch.device:
    """Where it is."""
    return table.device if isinstance(table, Tensor) else table["kv_indptr"].device
