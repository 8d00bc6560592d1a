"""Sanitizer builds of the CUDA emulator name the line of an overrun or a race, and are silent about correct kernels."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import kvconform
from kvconform.impls import cuda
from kvconform.impls.cuda_kernels import build, host, runtime
from kvconform.tests.cuda_calls import (
    KV_LENS,
    NUM_PAGES,
    PAGE_SIZE,
    TABLE,
    changed,
    decode,
    every_operation,
    featured_attention,
    pages_of,
    plain_attention,
    queries,
    without_barrier,
)
from kvconform.tests.cuda_pq_calls import every_operation_on_codes

PROBES = r"""
#include "cuda_on_cpu.h"
struct Words { unsigned* words; };
#define PROBE(name) extern "C" __global__ void name(const Words a); CUDA_EXPORT(name); void name(const Words a)

PROBE(heap_overrun) {
    __syncthreads();
    a.words[threadIdx.x] = 1;  // line: heap_overrun
}

PROBE(static_overrun) {
    __shared__ unsigned few[32];
    __syncthreads();
    few[threadIdx.x] = 1;  // line: static_overrun
    a.words[0] = few[0];
}

PROBE(dynamic_overrun) {
    CUDA_DYNAMIC_SHARED(unsigned, few);
    __syncthreads();
    few[threadIdx.x] = 1;  // line: dynamic_overrun
    a.words[0] = few[0];
}

constexpr unsigned ALL = 0xFFFFFFFFu, LOW = 0x0000FFFFu, HIGH = 0xFFFF0000u;

// Each of these lets its threads read what another one wrote. Those of one warp differ in what is between the two.
#define EXCHANGE(name, distance, ...)               \
    PROBE(name) {                                   \
        __shared__ unsigned left[64];               \
        const unsigned thread = threadIdx.x;        \
        left[thread] = thread;                      \
        __VA_ARGS__;                                \
        if (left[thread ^ distance] == 0xFFFFFFFFu) \
            a.words[thread] = 1;                    \
    }

EXCHANGE(behind_a_block_barrier, 33, __syncthreads())
EXCHANGE(behind_a_warp_barrier, 9, __syncwarp())
EXCHANGE(behind_half_a_warp_barrier, 9, __syncwarp(thread & 16 ? HIGH : LOW))
EXCHANGE(behind_two_warp_barriers, 9, __syncwarp(); __shfl_xor_sync(ALL, thread, 1); __syncwarp())
EXCHANGE(across_half_warps, 17, __syncwarp(thread & 16 ? HIGH : LOW))  // line: across_half_warps
EXCHANGE(across_warps, 33, __syncwarp())  // line: across_warps
EXCHANGE(behind_a_shuffle, 9, __shfl_xor_sync(ALL, thread, 1))  // line: behind_a_shuffle
EXCHANGE(behind_nothing, 1, (void)0)  // line: behind_nothing

PROBE(one_word_for_all) {
    a.words[0] = threadIdx.x;  // line: one_word_for_all
}

PROBE(reused_too_early) {
    __shared__ unsigned sum;
    for (unsigned round = 0; round < 3; ++round) {
        if (threadIdx.x == round) sum = round;  // line: reused_too_early
        __syncthreads();
        if (sum == 9) a.words[0] = 0;
    }
}

PROBE(hung) {
    if (threadIdx.x < 40) __syncthreads();
    else __shfl_xor_sync(ALL, 1, 1);
}
"""
SILENT = ["behind_a_block_barrier", "behind_a_warp_barrier", "behind_half_a_warp_barrier", "behind_two_warp_barriers"]
RACES = [
    "behind_nothing",
    "behind_a_shuffle",
    "across_half_warps",
    "across_warps",
    "one_word_for_all",
    "reused_too_early",
]


def line(marker: str) -> int:
    return next(number for number, text in enumerate(PROBES.splitlines(), 1) if text.endswith(f"// line: {marker}"))


@pytest.fixture(scope="session")
def probe_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("probes") / "probes.cu"
    path.write_text(PROBES)
    return str(path)


# ---- children: a sanitizer is loaded when a process starts ----

CHILD = """
import importlib, importlib.util, sys

root, task, *rest = sys.argv[1:]
spec = importlib.util.spec_from_file_location("kvconform", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["kvconform"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
getattr(importlib.import_module("kvconform.tests.test_cuda_sanitizers"), task)(*rest)
"""


def sanitized_child(kind: str, task: str, *rest: str, options: str = "") -> tuple[int, str]:
    """Exit status and stderr of a process that runs a function of this module on a sanitised build.

    options   for the sanitizer, beside those that it gets anyway
    """
    root = Path(str(kvconform.__file__)).parent
    command = [sys.executable, "-P", "-c", CHILD, str(root), task, *rest]
    environment = {**os.environ, **cuda.sanitized_environment(kind)}
    environment[build.SANITIZERS[kind].options[0]] += options
    with tempfile.TemporaryFile("w+") as stderr:  # no pipe: a symbolizer may outlive the child and hold it open
        status = subprocess.run(command, env=environment, stderr=stderr, timeout=300, check=False).returncode
        stderr.seek(0)
        return status, stderr.read()


def in_child_all_operations() -> None:
    for index, strides in ((np.int32, "contiguous"), (np.int64, "outer"), (np.int32, "all")):
        every_operation(index, strides)


def in_child_operations_on_codes() -> None:
    every_operation_on_codes()


def _run_in(source: str) -> None:
    """From here on this child runs the kernels of another source."""
    place = host.Host(build.library(Path(source), sanitizer=host.chosen_sanitizer()))
    runtime.current = lambda: place  # type: ignore[assignment]


def in_child_plain_attention(source: str) -> None:
    _run_in(source)
    plain_attention()


def in_child_featured_attention(source: str) -> None:
    _run_in(source)
    featured_attention()


def in_child_window(source: str) -> None:
    """Where a page lies wholly outside of the window, the table names one that the pool has not."""
    _run_in(source)
    table = np.array(TABLE)
    table[:, 0] = NUM_PAGES
    table[KV_LENS.index(1)] = TABLE[KV_LENS.index(1)]
    for num_splits in (1, 3):
        decode("nhd", "float32", pages_of(1), pages_of(1), queries(1), num_splits, table=table, window=PAGE_SIZE + 1)


def in_child_probes(source: str, *kernels: str) -> None:
    """64 threads over 40 words of memory and 32 of shared memory, kernel after kernel."""
    emulator = host.Host(build.library(Path(source), sanitizer=host.chosen_sanitizer()))

    class Words(ctypes.Structure):
        _fields_ = (("words", ctypes.c_void_p),)

    told = Words(emulator.allocate(40 * 4))
    for kernel in kernels:
        with pytest.raises(host.LaunchError) if kernel == "hung" else nullcontext():
            emulator.launch(kernel, (2, 1, 1), (64, 1, 1), 32 * 4, told)


# ---- overruns ----


@pytest.mark.parametrize("kernel", ["heap_overrun", "static_overrun", "dynamic_overrun"])
def test_address_sanitizer_names_the_line_of_an_overrun(kernel: str, probe_source: str) -> None:
    status, stderr = sanitized_child("address", "in_child_probes", probe_source, kernel)
    assert status != 0
    assert "ERROR: AddressSanitizer: " in stderr
    assert "WRITE of size 4" in stderr
    top = next(text for text in stderr.splitlines() if text.lstrip().startswith("#0"))
    assert f"probes.cu:{line(kernel)}" in top


def test_what_lies_outside_the_window_is_not_looked_up() -> None:
    assert sanitized_child("address", "in_child_window", str(build.KERNELS)) == (0, "")


def test_address_sanitizer_sees_a_kernel_that_looks_outside_the_window(tmp_path: Path) -> None:
    source = changed("f.window && f.window < end ? end - f.window : 0", "0", tmp_path)
    status, stderr = sanitized_child("address", "in_child_window", str(source))
    assert status != 0
    assert "ERROR: AddressSanitizer: " in stderr
    assert "attention.cuh" in next(text for text in stderr.splitlines() if text.lstrip().startswith("#0"))


# ---- races ----


Place = tuple[str, int]


def races(stderr: str) -> list[list[Place]]:
    """Files and lines of the two accesses of each race that is reported."""
    access = re.compile(r"(?i:read|write) of size .*\n +#0 .*/([\w.]+):(\d+) ")
    _, *reports = stderr.split("WARNING: ThreadSanitizer: data race")
    return [[(name, int(number)) for name, number in access.findall(report)] for report in reports]


@pytest.fixture(scope="session")
def probed(probe_source: str) -> str:
    """What a child that goes on after a race says of all RACES."""
    status, stderr = sanitized_child("thread", "in_child_probes", probe_source, *RACES, options=":halt_on_error=0")
    assert status == 66, stderr
    return stderr


@pytest.mark.parametrize("kernel", RACES)
def test_thread_sanitizer_names_the_line_of_a_race(kernel: str, probed: str) -> None:
    assert any(("probes.cu", line(kernel)) in places for places in races(probed))


def test_a_race_names_its_threads_as_cuda_does(probed: str) -> None:
    assert re.search(r"Thread T\d+ 'block \(0,0,0\) thread \(\d+,0,0\)'", probed)


def test_thread_sanitizer_is_silent_about_barriers_that_order(probe_source: str) -> None:
    assert sanitized_child("thread", "in_child_probes", probe_source, *SILENT, *SILENT[::-1]) == (0, "")


def test_a_launch_that_hung_leaves_no_race_behind(probe_source: str) -> None:
    kernels = [SILENT[0], "hung", SILENT[0], "hung", SILENT[1]]
    assert sanitized_child("thread", "in_child_probes", probe_source, *kernels) == (0, "")


@pytest.mark.parametrize("attention", ["plain", "featured"])
@pytest.mark.parametrize(("missing", "shared"), [*enumerate(("q[dim]", "scores[", "scores["))])
def test_thread_sanitizer_sees_each_missing_barrier_of_the_decode_kernel(
    missing: int, shared: str, attention: str, tmp_path: Path
) -> None:
    source = without_barrier(missing, tmp_path)
    status, stderr = sanitized_child("thread", f"in_child_{attention}_attention", str(source))
    assert status == 66, stderr
    text = (tmp_path / "attention.cuh").read_text().splitlines()
    (places,) = races(stderr)  # the first race ends the process
    assert [name for name, _ in places] == ["attention.cuh"] * 2
    assert all(shared in text[number - 1] for _, number in places)


# ---- correct kernels, and how a sanitizer is asked for ----


@pytest.mark.parametrize("kind", build.SANITIZERS)
@pytest.mark.parametrize("operations", ["all_operations", "operations_on_codes"])
def test_a_sanitizer_is_silent_about_every_operation(operations: str, kind: str) -> None:
    assert sanitized_child(kind, f"in_child_{operations}") == (0, "")


@pytest.mark.parametrize("kind", build.SANITIZERS)
def test_a_sanitised_build_asks_for_its_runtime(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCONFORM_CUDA_SANITIZE", kind)
    with pytest.raises(build.BuildError, match=f"{build.SANITIZERS[kind].title} is not loaded: start the process with"):
        runtime.current.__wrapped__()


def test_an_unknown_sanitizer_is_an_error_that_names_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCONFORM_CUDA_SANITIZE", "1")
    with pytest.raises(ValueError, match="KVCONFORM_CUDA_SANITIZE is '1': address, thread or unset"):
        runtime.current.__wrapped__()
    with pytest.raises(ValueError, match="no sanitizer 'memory': one of address, thread"):
        cuda.sanitized_environment("memory")


def test_a_sanitizer_and_a_gpu_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCONFORM_CUDA", "device")
    monkeypatch.setenv("KVCONFORM_CUDA_SANITIZE", "thread")
    with pytest.raises(ValueError, match="'thread', for the emulator only"):
        runtime.current.__wrapped__()


@pytest.mark.skipif(shutil.which("setarch") is None, reason="setarch is not on PATH")
@pytest.mark.parametrize(("needed", "advice"), [("0x40000", "start this process under `setarch -R`"), ("0", "")])
def test_a_python_that_does_not_start_is_a_sentence_with_advice(
    needed: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in fails as libtsan does where addresses are randomised too widely for it."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport sys\nfixed = int(open('/proc/self/personality').read(), 16) & {needed}\n"
        "sys.exit(0 if fixed else 'FATAL: ThreadSanitizer: unexpected memory mapping')\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(build.BuildError, match="does not start with ThreadSanitizer") as caught:
        build.sanitized_environment("thread")
    assert "(FATAL: ThreadSanitizer: unexpected memory mapping)" in str(caught.value)
    assert str(caught.value).endswith(advice or ")")
