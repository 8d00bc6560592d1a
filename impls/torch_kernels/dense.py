"""Contiguous caches as torch's dense attention takes them: keys [seq, head, slot, dim] and a mask of what is seen.

Of several query tokens a sequence each has as many rows, the newest last: those before its own are padding.

Some of torch's kernels are asked for on the CPU, whatever else the machine has: `to_cpu` and `Calls` are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvconform.impls.torch_kernels import handles

LAYOUTS = {"bshd", "bhsd"}
ROUNDED = {"float32", "float16", "bfloat16"}
STRIDES = {"contiguous", "outer", "all"}
MASKED = {"window": {"min": 0}, "alibi_slopes": {"none", "drawn"}, "q_lens": {"min": 1}}
MASKED |= {"tree_mask": {"none", "drawn"}}
"""Features that a mask makes, of booleans or of numbers that are added to scores."""

WHY_NOT = {
    "into": "the function takes no out",
    "operation": "the kernel attends; writing and reading caches is left to its caller",
    "layout": "the kernel takes whole sequences side by side",
    "num_splits": "the kernel has no such argument",
    "feature": "the kernel has no such argument",
    "narrow": "q, K and V have one type",
    "sparse": "a contiguous cache has no pool",
    "table_form": "the kernel takes no page table",
}


def keys_and_values(cache: Mapping[str, torch.Tensor], layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Views [num_seqs, num_kv_heads, capacity, head_dim] of K and V; sequence i is page i."""
    k, v = (cache[side] if layout == "bhsd" else cache[side].transpose(1, 2) for side in ("k", "v"))
    return k, v


def padded(q: torch.Tensor, q_lens: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """q as [num_seqs, num_q_heads, num_rows, head_dim], and which rows are no padding: bool [num_seqs, num_rows]."""
    if q_lens is None:
        return q[:, :, None], q.new_ones((len(q), 1), dtype=torch.bool)
    most = int(q_lens.max())
    own = torch.arange(most, device=q.device) >= most - q_lens[:, None]
    rows = q.new_zeros((*own.shape, *q.shape[1:]))
    rows[own] = q
    return rows.transpose(1, 2), own


def unpadded(result: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """[num_seqs, num_q_heads, num_rows, ...] as [num_q_rows, num_q_heads, ...]."""
    return result.transpose(1, 2)[own]


def ahead(kv_lens: torch.Tensor, seq: Any, row: Any, slot: Any, num_rows: int) -> Any:
    """How far a key stands ahead of a query; the last row of a sequence stands at its last key."""
    return slot - (kv_lens[seq] - num_rows + row)


@dataclass(frozen=True)
class Tree:
    """A tree mask of padded rows.

    rows    bool [num_seqs, num_rows, query token]
    first   [num_seqs] slot of each sequence's first query token
    """

    rows: torch.Tensor
    first: torch.Tensor

    @staticmethod
    def of(tree_mask: torch.Tensor | None, own: torch.Tensor, kv_lens: torch.Tensor) -> Tree | None:
        """That of a call; own: as `padded` says it."""
        if tree_mask is None:
            return None
        rows = tree_mask.new_zeros((*own.shape, tree_mask.shape[1]))
        rows[own] = tree_mask
        return Tree(rows, kv_lens - own.sum(1))

    def __call__(self, seq: Any, row: Any, slot: Any) -> Any:
        """Whether a row sees a key as far as the tree goes: keys older than the query tokens, and its ancestors."""
        column = slot - self.first[seq]
        return (column < 0) | self.rows[seq, row, column.clamp(0, self.rows.shape[2] - 1)]


def seen(ahead: Any, window: int | None) -> Any:
    """Whether a key that stands so far ahead of a query is seen by it."""
    return ahead <= 0 if window is None else (ahead <= 0) & (ahead > -window)


def mask(
    kv_lens: torch.Tensor,
    own: torch.Tensor,
    num_slots: int,
    window: int | None = None,
    alibi_slopes: torch.Tensor | None = None,
    tree_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """bool [num_seqs, 1, num_rows, num_slots]; under ALiBi float32 [num_seqs, num_q_heads, num_rows, num_slots].

    own   as `padded` says it
    """
    seq, row, slot = (torch.arange(n, device=kv_lens.device) for n in (*own.shape, num_slots))
    tree = Tree.of(tree_mask, own, kv_lens)
    at = seq[:, None, None, None], row[:, None], slot
    distance = ahead(kv_lens, *at, own.shape[1])
    found: torch.Tensor = seen(distance, window)
    found = found if tree is None else found & tree(*at)
    return found if alibi_slopes is None else (alibi_slopes[:, None, None] * distance).where(found, -torch.inf)


def to_cpu(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """`handles.to_device`, on the CPU."""
    return handles.to_device(array).cpu()


@dataclass
class Calls:
    """Counts what was called, where a call runs torch's own kernels, eagerly."""

    launches: int = 0
    device: str = "cpu"

    def attest(self) -> dict[str, Any]:
        """What an adapter says of itself."""
        return {"launches": self.launches, "device": self.device, "mode": "eager"}
