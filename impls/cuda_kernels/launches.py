"""Launches of the kernels of kernels.cu: how arrays are told, and the merge of partial results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import arguments, runtime
from kvconform.impls.cuda_kernels.runtime import DeviceArray

THREADS = 64
"""Of every block; attention.cuh relies on it."""


def tensor(array: DeviceArray | None) -> arguments.Tensor:
    """A null pointer for no array."""
    return arguments.Tensor() if array is None else arguments.Tensor(array.address, array.strides)


def merge(
    outs: DeviceArray, lses: DeviceArray, dtype: np.dtype[Any], out: DeviceArray | None, lse: DeviceArray | None
) -> tuple[DeviceArray, DeviceArray]:
    num_parts, num_rows, num_q_heads, head_dim = outs.shape
    out = out or DeviceArray((num_rows, num_q_heads, head_dim), dtype)
    lse = lse or DeviceArray((num_rows, num_q_heads), lses.dtype)
    told = arguments.MergeStates(tensor(outs), tensor(lses), tensor(out), tensor(lse), num_parts, head_dim)
    launch(f"merge_{outs.dtype}_into_{dtype}", lse.shape, told)
    return out, lse


def launch(kernel: str, grid: tuple[int, ...], told: Any, shared_bytes: int = 0) -> None:
    """A grid without blocks is not launched: CUDA refuses it, and there is nothing to do."""
    if math.prod(grid):
        x, y, z = (*grid, 1, 1)[:3]
        runtime.current().launch(kernel, (x, y, z), (THREADS, 1, 1), shared_bytes, told)
