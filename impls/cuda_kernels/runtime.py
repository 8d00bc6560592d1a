"""Where the kernels run, and arrays in that place's memory."""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from copy import copy
from functools import cache
from pathlib import Path
from types import EllipsisType
from typing import Any, Protocol

import numpy as np

from kvconform.impls.cuda_kernels import build, device, host

Array = np.ndarray[Any, Any]


class Runtime(Protocol):
    """What `host.Host` and `device.Device` have in common."""

    mode: str
    device: str
    compilations: int

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


FURTHER: list[Runtime] = []
"""Where kernels of other sources than the first run, once any of them was launched."""


@cache
def current() -> Runtime:
    """The GPU where there is one, else this CPU. `KVCONFORM_CUDA=device` or `=emulated` insists."""
    return _start(build.KERNELS)


@cache
def further(source: Path, define: str) -> Runtime:
    """The same place for kernels of another source, compiled when somebody asks for them.

    define   a macro by which the source chooses some of its kernels
    """
    FURTHER.append(_start(source, define))
    return FURTHER[-1]


def _start(source: Path, define: str = "") -> Runtime:
    wanted, sanitizer = os.environ.get("KVCONFORM_CUDA", ""), host.chosen_sanitizer()
    if wanted not in {"", "device", "emulated"}:
        raise ValueError(f"KVCONFORM_CUDA is {wanted!r}: device, emulated or unset")
    if wanted == "device" and sanitizer:
        raise ValueError(f"KVCONFORM_CUDA_SANITIZE is {sanitizer!r}, for the emulator only, and KVCONFORM_CUDA device")
    if wanted == "emulated" or sanitizer:
        return host.load(source, define)
    try:
        return device.Device(source, define)
    except device.NoDevice:
        if wanted == "device":
            raise
        return host.load(source, define)


class _Storage:
    """A block of device memory, freed when no array lies in it any more."""

    def __init__(self, num_bytes: int) -> None:
        place = current()
        self.address = place.allocate(num_bytes)
        weakref.finalize(self, place.free, self.address)


class DeviceArray:
    """An array in device memory, contiguous and all 0xFF bytes when it is made.

    strides   elements, not bytes, from one index of an axis to the next
    address   of the first element
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self.strides = self.strides_of(shape)
        self._storage = _Storage(math.prod(shape) * dtype.itemsize)
        self.address = self._storage.address

    @staticmethod
    def of(array: Array) -> DeviceArray:
        """A copy of a numpy array."""
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        there = DeviceArray(array.shape, array.dtype)
        current().upload(there.address, contiguous)
        return there

    def __getitem__(self, slices: tuple[slice, ...]) -> DeviceArray:
        """A view: the same memory, a slice of forward steps for each axis from the first one on."""
        whole = [slice(None)] * (len(self.shape) - len(slices))
        chosen = [range(*one.indices(size)) for one, size in zip([*slices, *whole], self.shape, strict=True)]
        if any(indices.step < 0 for indices in chosen):
            raise IndexError(f"a view goes forward, unlike {slices}")
        first = sum(indices.start * stride for indices, stride in zip(chosen, self.strides, strict=True))
        view = copy(self)
        view.shape = tuple(map(len, chosen))
        view.strides = tuple(indices.step * stride for indices, stride in zip(chosen, self.strides, strict=True))
        view.address += first * self.dtype.itemsize
        return view

    def __setitem__(self, whole: EllipsisType, other: DeviceArray) -> None:
        """Write another array of the same shape and dtype over this one, which has no gaps."""
        gapless = DeviceArray.strides_of(self.shape)
        if whole is not ... or (self.shape, self.dtype, gapless) != (other.shape, other.dtype, self.strides):
            raise IndexError(f"of {self.dtype}{list(self.shape)} all is written, by as much, or nothing")
        current().upload(self.address, other.numpy())

    @staticmethod
    def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
        """Elements from one index of each axis to the next, of an array without gaps."""
        return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))

    def part(self, first: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Contiguous bytes of this array, from the one numbered `first` on, as an array of its own."""
        view = copy(self)
        view.shape, view.dtype = shape, dtype
        view.strides = self.strides_of(shape)
        view.address += first
        return view

    def numpy(self) -> Array:
        """A copy as a numpy array; what lies between the elements of a view is read with them."""
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        itemsize = self.dtype.itemsize
        span = np.empty((last + 1) * itemsize if math.prod(self.shape) else 0, np.uint8)
        current().download(span, self.address)
        strides = [stride * itemsize for stride in self.strides]
        return np.ndarray(self.shape, self.dtype, span, strides=strides).copy()
