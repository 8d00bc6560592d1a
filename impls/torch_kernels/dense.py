"""Contiguous caches as torch's dense attention takes them: keys [seq, head, slot, dim] and a mask of live slots.

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
WHY_NOT = {
    "into": "the function takes no out",
    "operation": "the kernel attends; writing and reading caches is left to its caller",
    "layout": "the kernel takes whole sequences side by side",
    "num_splits": "the kernel has no such argument",
    "sparse": "a contiguous cache has no pool",
}


def keys_and_values(cache: Mapping[str, torch.Tensor], layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Views [num_seqs, num_kv_heads, capacity, head_dim] of K and V; sequence i is page i."""
    k, v = (cache[side] if layout == "bhsd" else cache[side].transpose(1, 2) for side in ("k", "v"))
    return k, v


def live(kv_lens: torch.Tensor, capacity: int) -> torch.Tensor:
    """bool [num_seqs, 1, 1, capacity]: slots that hold a token."""
    return torch.arange(capacity, device=kv_lens.device) < kv_lens[:, None, None, None]


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
