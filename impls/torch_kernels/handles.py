"""numpy arrays as torch tensors and back, bit for bit: torch does not take bfloat16 or 8-bit floats from numpy.

Handles live on the GPU where torch sees one, else on the CPU.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor of the dtype of the same name, with the same bits."""
    bits = array.view(f"int{8 * array.itemsize}")
    return torch.from_numpy(bits).view(getattr(torch, array.dtype.name)).to(DEVICE)


def to_host(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """An array of the dtype of the same name, with the same bits; a view keeps its shape."""
    bits = tensor.detach().cpu().contiguous().view(getattr(torch, f"int{8 * tensor.itemsize}")).numpy()
    name = str(tensor.dtype).removeprefix("torch.")
    return bits.view(getattr(ml_dtypes, name, name))


def synchronize(result: Any) -> Any:
    """Wait until everything that was started is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return result


def device_name() -> str:
    """For attest(): the GPU's name, or cpu."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as integers of the same width."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.itemsize])


def into(given: torch.Tensor | None, result: torch.Tensor) -> torch.Tensor:
    """The result, bit for bit in the memory that was given."""
    if given is None:
        return result
    bits(given).copy_(bits(result))
    return given
