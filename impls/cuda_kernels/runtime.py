"""Where the kernels run, and arrays in that place's memory."""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from functools import cache
from typing import Any, Protocol

import numpy as np

from kvconform.impls.cuda_kernels import device, host

Array = np.ndarray[Any, Any]


class Runtime(Protocol):
    """What `host.Host` and `device.Device` have in common."""

    mode: str
    device: str

    @property
    def launches(self) -> int: ...

    def allocate(self, num_bytes: int) -> int: ...

    def free(self, address: int) -> None: ...

    def upload(self, address: int, array: Array) -> None: ...

    def download(self, array: Array, address: int) -> None: ...

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        arguments: ctypes.Structure,
    ) -> None: ...


@cache
def current() -> Runtime:
    """The GPU where there is one, else this CPU. `KVCONFORM_CUDA=device` or `=emulated` insists."""
    wanted = os.environ.get("KVCONFORM_CUDA", "")
    if wanted not in {"", "device", "emulated"}:
        raise ValueError(f"KVCONFORM_CUDA is {wanted!r}: device, emulated or unset")
    if wanted == "emulated" or (not wanted and os.environ.get("KVCONFORM_CUDA_SANITIZE") == "1"):
        return host.load()
    try:
        return device.Device()
    except device.NoDevice:
        if wanted == "device":
            raise
        return host.load()


class DeviceArray:
    """A block of device memory with a shape and a dtype, freed with this object. Fresh memory is all 0xFF bytes."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        place = current()
        self.address = place.allocate(math.prod(shape) * dtype.itemsize)
        weakref.finalize(self, place.free, self.address)

    @staticmethod
    def of(array: Array) -> DeviceArray:
        """A copy of a numpy array."""
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        copy = DeviceArray(array.shape, array.dtype)
        current().upload(copy.address, contiguous)
        return copy

    def numpy(self) -> Array:
        """A copy as a numpy array."""
        array = np.empty(self.shape, self.dtype)
        current().download(array, self.address)
        return array
