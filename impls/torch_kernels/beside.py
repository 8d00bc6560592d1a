"""What torch itself does on the device of the handles, for kernels to be timed beside: attention, and a copy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from kvconform.impls.torch_kernels import handles


def attention(
    num_keys: int, num_kv_heads: int, group: int, head_dim: int, sm_scale: float, seed: int, turns: int
) -> Callable[[], Any]:
    """scaled_dot_product_attention of one float16 query over so many float16 keys, ready to be called.

    turns   one call after another takes the next of so many sets of them
    """
    drawn = torch.Generator(handles.DEVICE).manual_seed(seed)
    shapes = (num_kv_heads * group, 1), (num_kv_heads, num_keys), (num_kv_heads, num_keys)

    def numbers(heads: int, rows: int) -> torch.Tensor:
        return torch.randn(1, heads, rows, head_dim, dtype=torch.float16, device=handles.DEVICE, generator=drawn)

    given = cycle([[numbers(*shape) for shape in shapes] for _ in range(turns)])
    return lambda: scaled_dot_product_attention(*next(given), scale=sm_scale, enable_gqa=True)


def copy(num_bytes: int) -> Callable[[], Any]:
    """A copy of so many bytes from one tensor to another, ready to be called."""
    source, target = (torch.zeros(num_bytes, dtype=torch.uint8, device=handles.DEVICE) for _ in range(2))
    return lambda: target.copy_(source)


def gpu() -> str:
    """The name of the GPU that handles live on; empty where there is none."""
    return handles.device_name() if handles.DEVICE.type == "cuda" else ""
