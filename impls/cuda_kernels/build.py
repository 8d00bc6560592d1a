"""The CUDA sources as a shared library for this CPU: compiled once, kept in a cache outside the package."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
KERNELS = SOURCES / "kernels.cu"
COMPILERS = ("g++", "clang++")

FLAGS = ("-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra")
OPTIMISED = ("-O2",)
SANITIZED = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address")
CLANG_SANITIZED = ("-shared-libasan",)  # g++ links its runtime so by default

ASAN_OPTIONS = "detect_leaks=0:detect_stack_use_after_return=0"
"""Python never frees everything; fibers have stacks of their own, so no fake ones beside them."""


class BuildError(RuntimeError):
    """The kernels could not be compiled for this CPU."""


@cache
def compiler() -> str:
    """Path of the first host compiler on PATH. Raises BuildError where there is none."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise BuildError(f"no C++ compiler on PATH (one of {', '.join(COMPILERS)}) to run the CUDA kernels on this CPU")


def library(source: Path = KERNELS, *, sanitize: bool = False) -> Path:
    """Path of the shared library of a .cu source that includes `cuda_on_cpu.h`; compiled unless the cache has it.

    source     the .cu file; what it includes lies beside it or beside this module
    sanitize   with AddressSanitizer; loads only into a process started in `sanitized_environment`

    Raises BuildError with the compiler's first errors.
    """
    flags = [*FLAGS, *(SANITIZED if sanitize else OPTIMISED)]
    if sanitize and _is_clang():
        flags += CLANG_SANITIZED
    target = _directory() / f"{source.stem}-{_key(source, flags)}.so"
    if not target.exists():
        _compile(source, flags, target)
    return target


def sanitized_environment() -> dict[str, str]:
    """Variables of a child process in which the adapter runs the AddressSanitizer build. Builds it, too."""
    library(sanitize=True)
    runtime = f"libclang_rt.asan-{platform.machine()}.so" if _is_clang() else "libasan.so"
    path = Path(_output(compiler(), f"-print-file-name={runtime}").strip())
    if not path.is_absolute():
        raise BuildError(f"{compiler()} comes without {runtime}, the AddressSanitizer runtime")
    return {
        "KVCONFORM_CUDA": "emulated",
        "KVCONFORM_CUDA_SANITIZE": "1",
        "LD_PRELOAD": str(path.resolve()),
        "ASAN_OPTIONS": ASAN_OPTIONS,
    }


def _compile(source: Path, flags: list[str], target: Path) -> None:
    """Writes to a file of its own and renames it, so that processes which build at once do not meet."""
    handle, part = tempfile.mkstemp(suffix=".part", dir=target.parent)
    os.close(handle)
    command = [compiler(), *flags, f"-I{SOURCES}", "-x", "c++", str(source), "-o", part]
    try:
        built = subprocess.run(command, capture_output=True, text=True, env=_plain_environment(), check=False)
        if built.returncode:
            said = built.stderr.splitlines()
            errors = [line for line in said if "error:" in line] or said
            raise BuildError("\n  ".join([f"{compiler()} cannot compile {source.name}:", *errors[:5]]))
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)


def _key(source: Path, flags: list[str]) -> str:
    """A digest of everything that the library depends on."""
    folders = {SOURCES, source.parent}
    files = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in {".cu", ".cuh", ".h"})
    digest = hashlib.sha256(repr((platform.machine(), _version(), flags, source.name)).encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def _directory() -> Path:
    """The cache, or where that cannot be written a folder that lasts as long as this process."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (named if named.is_absolute() else Path.home() / ".cache") / "kvconform" / "cuda"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home
        pass
    temporary = tempfile.mkdtemp(prefix="kvconform-cuda-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


@cache
def _version() -> str:
    return _output(compiler(), "--version")


def _is_clang() -> bool:
    return "clang" in _version()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, env=_plain_environment(), check=True).stdout


def _plain_environment() -> dict[str, str]:
    """Ours without the sanitizer, which compilers do not need."""
    return {name: value for name, value in os.environ.items() if name not in {"LD_PRELOAD", "ASAN_OPTIONS"}}
