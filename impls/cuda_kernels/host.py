"""Kernels on this CPU: the shared library of `cuda_on_cpu.h`, called by ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import build

SCHEDULES = ("forward", "reversed", "shuffled", "in turn")
"""Orders in which threads and blocks run; `cuda_on_cpu.h` says what each means."""


class LaunchError(RuntimeError):
    """A kernel that could not be launched, or that hung at a barrier."""


class Host:
    """A loaded library: its memory, its kernels, its count of launches."""

    mode = "emulated"
    compilations = 1  # one library has every kernel of its source

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name, result in (
            ("allocate", ctypes.c_void_p),
            ("free", None),
            ("launch", ctypes.c_char_p),
            ("launches", ctypes.c_ulonglong),
            ("schedule", None),
        ):
            getattr(self._library, f"cuda_on_cpu_{name}").restype = result
        self.device = f"fibers on one {platform.machine()} CPU thread"

    @property
    def launches(self) -> int:
        """Kernels that began to run, counted where the first block starts."""
        return int(self._library.cuda_on_cpu_launches())

    def schedule(self, name: str) -> None:
        """Choose one of SCHEDULES for the launches that follow."""
        if name not in SCHEDULES:
            raise ValueError(f"no schedule {name!r}: one of {', '.join(SCHEDULES)}")
        self._library.cuda_on_cpu_schedule(name.encode())

    def allocate(self, num_bytes: int) -> int:
        """Address of a block of exactly that size, every byte 0xFF."""
        address = self._library.cuda_on_cpu_allocate(ctypes.c_size_t(num_bytes))
        if address is None and num_bytes:
            raise MemoryError(f"{num_bytes} bytes of emulated device memory")
        return address or 0

    def free(self, address: int) -> None:
        self._library.cuda_on_cpu_free(ctypes.c_void_p(address))

    def upload(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy a contiguous array to device memory."""
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Copy device memory to a contiguous array."""
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        arguments: ctypes.Structure,
    ) -> None:
        """Run a kernel that takes one struct, to its end. Raises LaunchError."""
        error = self._library.cuda_on_cpu_launch(
            kernel.encode(),
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            ctypes.c_size_t(shared_bytes),
            ctypes.byref(arguments),
            ctypes.c_size_t(ctypes.sizeof(arguments)),
        )
        if error:
            raise LaunchError(error.decode())


def chosen_sanitizer() -> str:
    """Name of the sanitizer that KVCONFORM_CUDA_SANITIZE asks for; empty: none."""
    chosen = os.environ.get("KVCONFORM_CUDA_SANITIZE", "")
    if chosen not in {"", *build.SANITIZERS}:
        raise ValueError(f"KVCONFORM_CUDA_SANITIZE is {chosen!r}: {', '.join(build.SANITIZERS)} or unset")
    return chosen


def load(source: Path = build.KERNELS, define: str = "") -> Host:
    """The kernels of a source on this CPU, built and scheduled as the environment asks."""
    chosen = chosen_sanitizer()
    if chosen:
        _check_that_it_is_loaded(chosen)
    host = Host(build.library(source, sanitizer=chosen, define=define))
    if chosen:
        host.device += f", {build.SANITIZERS[chosen].title}"
    host.schedule(os.environ.get("KVCONFORM_CUDA_SCHEDULE", "in turn"))
    return host


def _check_that_it_is_loaded(chosen: str) -> None:
    """Loading the library without its sanitizer would end the process."""
    sanitizer = build.SANITIZERS[chosen]
    if not hasattr(ctypes.CDLL(None), sanitizer.symbol):
        raise build.BuildError(
            f"KVCONFORM_CUDA_SANITIZE is {chosen!r}, but {sanitizer.title} is not loaded: start the process with the "
            f"variables of sanitized_environment({chosen!r})"
        )
