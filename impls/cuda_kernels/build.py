"""The CUDA sources as a shared library for this CPU: compiled once, kept in a cache outside the package."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
KERNELS = SOURCES / "kernels.cu"
PQ_KERNELS = SOURCES / "pq_kernels.cu"
COMPILERS = ("g++", "clang++")

FLAGS = ("-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra")
OPTIMISED = ("-O2",)
SANITIZED = ("-O1", "-g", "-fno-omit-frame-pointer")
CLANG_SANITIZED = ("-shared-libsan",)  # g++ links its runtime so by default


@dataclass(frozen=True)
class Sanitizer:
    """A sanitizer of the host compiler, linked into the kernels' library and loaded before everything else.

    title     for people
    runtime   the name of its shared library: lib{runtime}.so, or libclang_rt.{runtime}-{machine}.so
    symbol    a function of that library
    options   name and value of its environment variable
    """

    title: str
    runtime: str
    symbol: str
    options: tuple[str, str]


SANITIZERS = {
    # Python never frees everything; fibers have stacks of their own, so no fake ones beside them.
    "address": Sanitizer(
        "AddressSanitizer", "asan", "__asan_init", ("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")
    ),
    # Races are the kernels' alone: what Python and its libraries do is not looked at.
    "thread": Sanitizer(
        "ThreadSanitizer", "tsan", "__tsan_init", ("TSAN_OPTIONS", "halt_on_error=1:ignore_noninstrumented_modules=1")
    ),
}
"""Choices of KVCONFORM_CUDA_SANITIZE."""


class BuildError(RuntimeError):
    """The kernels could not be compiled for this CPU."""


@cache
def compiler() -> str:
    """Path of the first host compiler on PATH. Raises BuildError where there is none."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise BuildError(f"no C++ compiler on PATH (one of {', '.join(COMPILERS)}) to run the CUDA kernels on this CPU")


def library(source: Path = KERNELS, *, sanitizer: str = "", define: str = "") -> Path:
    """Path of the shared library of a .cu source that includes `cuda_on_cpu.h`; compiled unless the cache has it.

    source      the .cu file; what it includes lies beside it or beside this module
    sanitizer   one of SANITIZERS; loads only into a process started in `sanitized_environment`. Empty: none
    define      a macro by which the source chooses some of its kernels; empty: all

    Raises BuildError with the compiler's first errors.
    """
    flags = [*FLAGS, *((*SANITIZED, f"-fsanitize={sanitizer}") if sanitizer else OPTIMISED)]
    if sanitizer and _is_clang():
        flags += CLANG_SANITIZED
    flags += [f"-D{define}"] if define else []
    target = _directory() / f"{source.stem}-{_key(source, flags)}.so"
    if not target.exists():
        _compile(source, flags, target)
    return target


def sanitized_environment(kind: str) -> dict[str, str]:
    """Variables of a child process in which the adapter runs the build of one of SANITIZERS. Builds it, too.

    Raises BuildError where this Python does not start with them.
    """
    if kind not in SANITIZERS:
        raise ValueError(f"no sanitizer {kind!r}: one of {', '.join(SANITIZERS)}")
    sanitizer = SANITIZERS[kind]
    library(sanitizer=kind)
    clang = f"libclang_rt.{sanitizer.runtime}-{platform.machine()}.so"
    runtime = clang if _is_clang() else f"lib{sanitizer.runtime}.so"
    path = Path(_output(compiler(), f"-print-file-name={runtime}").strip())
    if not path.is_absolute():
        raise BuildError(f"{compiler()} comes without {runtime}, the runtime of {sanitizer.title}")
    option, value = sanitizer.options
    variables = {
        "KVCONFORM_CUDA": "emulated",
        "KVCONFORM_CUDA_SANITIZE": kind,
        "LD_PRELOAD": str(path.resolve()),
        option: value,
    }
    _check_that_python_starts(sys.executable, sanitizer, variables)
    return variables


def _check_that_python_starts(python: str, sanitizer: Sanitizer, variables: dict[str, str]) -> None:
    """A sanitizer lays its own map over the address space, and wide randomisation of addresses collides with it."""

    def start(*prefix: str) -> subprocess.CompletedProcess[str]:
        command = [*prefix, python, "-c", ""]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)

    plain = start()
    if not plain.returncode:
        return
    said = (plain.stderr.strip() or f"exit status {plain.returncode}").splitlines()[0]
    setarch = shutil.which("setarch")
    helps = setarch is not None and start(setarch, "-R").returncode == 0
    advice = "; with fixed addresses it does: start this process under `setarch -R`" if helps else ""
    raise BuildError(f"{python} does not start with {sanitizer.title} ({said}){advice}")


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
    ours = {"LD_PRELOAD", *(sanitizer.options[0] for sanitizer in SANITIZERS.values())}
    return {name: value for name, value in os.environ.items() if name not in ours}
