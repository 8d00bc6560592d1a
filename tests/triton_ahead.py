"""Compiles the Triton kernels for an H100 or H200 where there is none, and prints what came of it as JSON.

`tests/test_triton_ref.py` runs this in a process of its own: where there is no GPU, its own Triton interprets. The laws
call the adapter as they always do; kernels are compiled instead of started, and no verdict is reached.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from kvconform.harness.subject import Subject
from kvconform.oracles.verdict import Violation
from kvconform.specs.case import Case
from kvconform.specs.cells import Cell, cells
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.pinned import bench_case, schedule, table_forms
from kvconform.suites import (  # noqa: F401  (their laws)
    test_decode,
    test_fused,
    test_paged,
    test_pages,
    test_pq,
    test_states,
    test_update,
)
from kvconform.suites.law import LAWS

SIZES = {"page_size": 16, "num_kv_heads": 2, "group": 2, "head_dim": 32, "head_dim_v": 48}
_MILLION = {axis: test_pq.MILLION[axis] for axis in ("num_subspaces", "sub_dim", "num_centroids")}
SERVED: dict[tuple[str, str], dict[str, Any]] = {
    ("nhd", "bfloat16"): {"group": 8, "head_dim": 128},
    ("codes", "uint8"): {"q_dtype": "float16", **_MILLION},
    ("pq_rows", "uint8"): {"q_dtype": "bfloat16", "num_subspaces": 32, "sub_dim": 4, "num_centroids": 256},
    ("pq_columns", "uint8"): {"q_dtype": "float16", "group": 4, "page_size": 64, **_MILLION},
}
"""As large as models have them, for few cells of an operation: the larger, the longer a compiler takes."""
VARIANTS = (
    {"strides": "contiguous", "num_splits": 1, "index_dtype": "int32"},
    {"strides": "all", "num_splits": 3, "index_dtype": "int64"},
)
NARROW = {"int8": 0, "float8_e4m3fn": 1, "uint4": 0, "float4_e2m1fn": 1}
"""Which of the variants compiles for a narrow cache, with the simplest q and scales that are offered, or the last."""


class Hopper:
    """A driver for a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@triton.jit
def only_interpreted(numbers):
    """A control: Python that the interpreter runs and the compiler cannot."""
    tl.store(numbers, float(str(tl.load(numbers).handle)))


class Ending:
    """An adapter whose operations, once they have run, end the law that called them."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.adapter, name)
        return partial(self._run, value) if name in OPERATIONS else value

    def _run(self, operation: Any, *arguments: Any, **keywords: Any) -> None:
        operation(*arguments, **keywords)
        raise AssertionError("compiled, not run")


def images(adapter: Any, launch: Any) -> dict[str, list[dict[str, Any]]]:
    """The kernels of every cell that the adapter offers, "op layout dtype" -> what was compiled for it."""
    found: list[dict[str, Any]] = []

    def compile_only(function: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        found.append(image(function, *arguments, **constants))

    launch.launch = compile_only
    subject = Subject(Ending(adapter), adapter.NAME, str(adapter.__file__))
    named = {}
    for op, offer in subject.offers.items():
        law = next(law for law in LAWS.values() if law.op == op)
        for cell in cells(op, offer, subject.conventions):
            found.clear()
            for case in asked(cell):
                with suppress(Violation):
                    law.check(subject, case)
            named[f"{op} {cell.layout} {cell.dtype}"] = list(found)
    return named


def asked(cell: Cell) -> list[Case]:
    """The Cases of a cell; some have more: large sizes, forms of tables, any two features."""
    if cell.op == "paged_decode" and cell.dtype in NARROW:
        which = NARROW[cell.dtype]
        return [sized(cell, VARIANTS[which] | {axis: cell.allowed(axis)[-which] for axis in ("q_dtype", "kv_scales")})]
    variants = [sized(cell, variant) for variant in VARIANTS]
    if (cell.layout, cell.dtype) not in SERVED:
        return variants
    variants.append(sized(cell, SERVED[cell.layout, cell.dtype]))
    return [*variants, *(schedule(cell) if cell.op == "paged_decode" else ()), *in_forms(cell)]


def in_forms(cell: Cell) -> tuple[Case, ...]:
    """Cases in other forms of page table, where the operation reads one."""
    return table_forms(cell) if "table_form" in cell.axes else ()


def sized(cell: Cell, variant: dict[str, Any]) -> Case:
    """A Case of a cell in the sizes above where its layout has them, its sequences as long as their pages."""
    case = bench_case(cell)
    sizes = {axis: size for axis, size in SIZES.items() if axis in cell.axes and cell.admits(axis, size)}
    case = replace(case, **sizes | variant)
    return replace(case, kv_lens=(case.capacity * case.page_size,) * len(case.kv_lens))


def image(function: Any, *arguments: Any, **constants: Any) -> dict[str, Any]:
    """What the compiler makes of one kernel: its name, and the error or facts about the machine code."""
    try:
        made = function.warmup(*arguments, grid=(1,), **constants)
    except Exception as e:
        return {"kernel": function.fn.__name__, "error": f"{type(e).__name__}: {e}"}
    ptx = made.asm["ptx"]
    words = ("mma", "div.full", "div.approx", "div.rn", "ex2.approx.f32", "lg2.approx")
    return {
        "kernel": function.fn.__name__,
        "is_elf": made.asm["cubin"].startswith(b"\x7fELF"),
        "instructions": [word for word in words if word in ptx],
    }


def main() -> None:
    triton.runtime.driver.set_active(Hopper())
    from kvconform.impls import triton_ref  # asks the driver while it is imported
    from kvconform.impls.triton_kernels import launch

    control = image(only_interpreted, torch.zeros(1))
    print(json.dumps({"control": control, "cells": images(triton_ref, launch), "attest": triton_ref.MODE}))
