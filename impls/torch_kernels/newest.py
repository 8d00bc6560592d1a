"""Where the newest tokens of sequences go: what append_decode works out from a block table and lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def slots(block_table: Tensor, kv_lens: Tensor, q_lens: Tensor | None, page_size: int) -> Tensor:
    """The slot_mapping of append for the newest tokens of every sequence, oldest first; kv_lens count them.

    block_table   [num_seqs, width], or [num_seqs, 2, width]: then K and V have slots of their own, [2, num_tokens]
    q_lens        how many each sequence has; None: one
    """
    lens = torch.ones_like(kv_lens) if q_lens is None else q_lens
    seq = torch.arange(len(lens), device=lens.device).repeat_interleave(lens)
    position = kv_lens[seq] - lens.cumsum(0)[seq] + torch.arange(len(seq), device=lens.device)
    pages = block_table[seq].movedim(0, -2)  # [2,] num_tokens, width
    columns = (position // page_size).long()[:, None].expand(*pages.shape[:-1], 1)
    return pages.gather(-1, columns).squeeze(-1).long() * page_size + position % page_size
