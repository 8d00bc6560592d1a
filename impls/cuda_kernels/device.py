"""Kernels on a GPU: compiled by NVRTC for the device that is there, launched through the driver.

Both come from the package `cuda-bindings` (12 or 13), which is imported only when somebody asks for a device.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import build

DEFAULT_SHARED_BYTES = 48 << 10
"""Dynamic shared memory that a kernel gets without asking."""


class NoDevice(RuntimeError):
    """There is no GPU here, or nothing to drive it with."""


class DeviceError(RuntimeError):
    """A call of the driver or of the compiler failed."""


def compiled(arch: str, source: Path = build.KERNELS, define: str = "") -> tuple[bytes, str]:
    """The cubin of a source's kernels for an architecture such as `sm_90`, and the compiler's warnings.

    define   a macro by which the source chooses some of its kernels; empty: all

    Raises DeviceError.
    """
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")

    def call(function: str, *arguments: Any) -> Any:
        return _checked(function, getattr(nvrtc, function)(*arguments))

    options = [f"--gpu-architecture={arch}", "--std=c++17", f"--include-path={build.SOURCES}"]
    options += [f"--define-macro={define}"] if define else []
    program = call("nvrtcCreateProgram", source.read_bytes(), source.name.encode(), 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = bytearray(call("nvrtcGetProgramLogSize", program))  # bytes would be shared where there is but one
        call("nvrtcGetProgramLog", program, log)
        text = log.rstrip(b"\0\n").decode()
        if int(status):
            raise DeviceError(f"NVRTC cannot compile {source.name} for {arch}:\n{text}")
        cubin = bytearray(call("nvrtcGetCUBINSize", program))
        call("nvrtcGetCUBIN", program, cubin)
    finally:
        call("nvrtcDestroyProgram", program)
    return bytes(cubin), text


class Device:
    """The first GPU: its memory, which serves the kernels of all sources; the kernels of one, their count of launches.

    source, define   as `compiled` takes them

    Raises NoDevice where there is none.
    """

    mode = "compiled"
    compilations = 1  # one module has every kernel of the source

    def __init__(self, source: Path = build.KERNELS, define: str = "") -> None:
        self.launches = 0
        self._driver = _driver()
        ordinal = self._call("cuDeviceGet", 0)
        name = self._call("cuDeviceGetName", 256, ordinal).split(b"\0")[0].decode()
        attributes = self._driver.CUdevice_attribute
        major = self._call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ordinal)
        minor = self._call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, ordinal)
        self.device = f"{name}, sm_{major}{minor}"
        self._context = self._call("cuDevicePrimaryCtxRetain", ordinal)
        cubin, _ = compiled(f"sm_{major}{minor}", source, define)
        self._cubin = np.frombuffer(cubin, np.uint8)  # lives as long as the module
        self._module = self._call_here("cuModuleLoadData", self._cubin.ctypes.data)
        self._kernel = cache(lambda kernel: self._call_here("cuModuleGetFunction", self._module, kernel.encode()))

    def allocate(self, num_bytes: int) -> int:
        """Address of device memory, every byte 0xFF as in the emulator."""
        address = self._call_here("cuMemAlloc", max(num_bytes, 1))
        self._call_here("cuMemsetD8", address, 0xFF, max(num_bytes, 1))
        return int(address)

    def free(self, address: int) -> None:
        """Give memory back. Nothing is checked: after a kernel that failed, the context frees no more."""
        self._driver.cuMemFree(address)

    def upload(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy a contiguous array to device memory."""
        if array.nbytes:
            self._call_here("cuMemcpyHtoD", address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Copy device memory to a contiguous array."""
        if array.nbytes:
            self._call_here("cuMemcpyDtoH", array.ctypes.data, address, array.nbytes)

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        arguments: ctypes.Structure,
    ) -> None:
        """Run a kernel that takes one struct, and wait for its end. Raises DeviceError."""
        function = self._kernel(kernel)
        if shared_bytes > DEFAULT_SHARED_BYTES:
            most = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call_here("cuFuncSetAttribute", function, most, shared_bytes)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        stream, extra = self._driver.CUstream(0), 0
        self._call_here(
            "cuLaunchKernel", function, *grid, *block, shared_bytes, stream, ctypes.addressof(pointers), extra
        )
        self.launches += 1
        self._call_here("cuCtxSynchronize")

    def _call_here(self, function: str, *arguments: Any) -> Any:
        """Call the driver with our context current: a thread that came later has none."""
        self._call("cuCtxSetCurrent", self._context)
        return self._call(function, *arguments)

    def _call(self, function: str, *arguments: Any) -> Any:
        return _checked(function, getattr(self._driver, function)(*arguments))


def _driver() -> Any:
    """The initialised driver bindings."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise NoDevice(f"cuda-bindings cannot be imported: {error}") from error
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # without libcuda the bindings raise instead of returning a status
        raise NoDevice(f"no CUDA driver: {error}") from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise NoDevice(f"the CUDA driver does not start: {status!r}")
    status, count = driver.cuDeviceGetCount()
    if status != driver.CUresult.CUDA_SUCCESS or count == 0:
        raise NoDevice(f"the CUDA driver finds no device: {status!r}")
    return driver


def _checked(function: str, returned: tuple[Any, ...]) -> Any:
    """What a binding returns beside its status. Raises DeviceError with the status."""
    status, *values = returned
    if int(status):
        raise DeviceError(f"{function}: {status!r}")
    return values[0] if values else None
