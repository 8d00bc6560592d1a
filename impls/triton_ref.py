"""Triton kernels of this repository (`impls/triton_kernels`): compiled on a GPU, interpreted on any other machine.

KVCONFORM_TRITON   compiled or interpreted: insist on one (unset: a GPU where torch sees one). A process has one mode,
                   fixed when Triton is imported.
"""

from __future__ import annotations

from typing import Any

import torch

from kvconform.impls.torch_kernels.handles import device_name
from kvconform.impls.torch_kernels.handles import synchronize as synchronize
from kvconform.impls.torch_kernels.handles import to_device as to_device
from kvconform.impls.torch_kernels.handles import to_host as to_host
from kvconform.impls.triton_kernels import MODE, decode, fused, launch, merge, paged
from kvconform.impls.triton_kernels.pages import CODES, PAGED, Cache
from kvconform.specs.dtypes import DTYPES

NAME = "triton_ref"
BACKEND = "triton"
REQUIRES = ("torch", "triton", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small: waking a second thread costs more than it does

_ROUNDED = {"float32", "float16", "bfloat16"}
_ANY = {"strides": {"contiguous", "outer", "all"}, "static": True}  # static: a GPU compiles, the interpreter is slow
_INDEXED = {"index_dtype": {"int32", "int64"}, **_ANY}
_FUSED = {"layout": {"fused"}, "dtype": set(DTYPES), **_ANY}
_MOVED = {"layout": {*PAGED, *CODES}, "dtype": set(DTYPES), **_INDEXED}
OFFERS = {
    "merge_kv": _FUSED,
    "extract_k": _FUSED,
    "extract_v": _FUSED,
    "append": _MOVED,
    "gather": _MOVED,
    "paged_decode": {"layout": set(PAGED), "dtype": _ROUNDED, "num_splits": range(1, 65), **_INDEXED},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, **_ANY},
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan"},
    "table_padding": {"valid", "minus_one"},
    "empty_rows": "zero",
    "deterministic": True,
}
ARITHMETIC = {
    "tile": decode.TILE,
    "exp_error": 2.0**-21,  # ex2.approx of a GPU is within 2 ulp, numpy's exp in the interpreter within 2.6
    "normalises_first": False,  # decode.py: one division, when the last key is in
    "merge_levels": 1,  # merge.py: one sum over all parts
    "renormalises": True,  # merge.py: divided by the sum of its own weights
}
IN_PLACE = {"append": "cache"}


def attest() -> dict[str, Any]:
    return {
        "launches": launch.launches,
        "device": device_name(),
        "mode": MODE,
        "compilations": len(launch.compiled),
    }


def merge_kv(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return fused.merge_kv(k, v)


def extract_k(kv: torch.Tensor) -> torch.Tensor:
    return fused.extract(kv, first_row=0)


def extract_v(kv: torch.Tensor) -> torch.Tensor:
    return fused.extract(kv, first_row=1)


def append(cache: Cache, k: torch.Tensor, v: torch.Tensor | None, slot_mapping: torch.Tensor, *, layout: str) -> Cache:
    paged.append(cache, k, v, slot_mapping, layout)
    return cache


def gather(
    cache: Cache, block_table: torch.Tensor, kv_lens: torch.Tensor, *, layout: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    return paged.gather(cache, block_table, kv_lens, layout)


def paged_decode(
    q: torch.Tensor,
    cache: Cache,
    block_table: torch.Tensor,
    kv_lens: torch.Tensor,
    *,
    layout: str,
    sm_scale: float,
    num_splits: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    return decode.paged_decode(q, cache, block_table, kv_lens, layout, sm_scale, num_splits)


def merge_states(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return merge.merge_states(outs, lses, outs.dtype)
