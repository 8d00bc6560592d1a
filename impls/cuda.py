"""CUDA C++ kernels of this repository: on a GPU where there is one, else the same source on this CPU.

Environment, read at the first call:

KVCONFORM_CUDA            device or emulated: insist on one (unset: a GPU where there is one)
KVCONFORM_CUDA_SCHEDULE   forward, reversed or shuffled: how emulated threads take turns (unset: launches rotate)
KVCONFORM_CUDA_SANITIZE   address or thread: the emulator's AddressSanitizer or ThreadSanitizer build, in a process
                          that was started with the variables of `sanitized_environment`; the first overrun, or the
                          first data race between threads of a block, ends the process and names the kernel's line
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import arguments, runtime
from kvconform.impls.cuda_kernels.build import sanitized_environment as sanitized_environment
from kvconform.impls.cuda_kernels.runtime import Array, DeviceArray
from kvconform.specs.dtypes import DTYPES

NAME = "cuda"
BACKEND = "cuda"
REQUIRES = ("numpy", "ml_dtypes")
PROGRAMS = ("g++", "clang++", "nvcc")

PAGES = {  # the field of K and its axes, then of V; a `row` is K0 V0 K1 V1 ...
    "nhd": (("k", "page slot head dim"), ("v", "page slot head dim")),
    "hnd": (("k", "page head slot dim"), ("v", "page head slot dim")),
    "heads_first": (("k", "head page slot dim"), ("v", "head page slot dim")),
    "interleaved": (("kv", "page slot row dim"), ("kv", "page slot row dim")),
    "split_x": (("k", "page head chunk slot inner"), ("v", "page head dim slot")),
}
CONTIGUOUS = {"bshd": PAGES["nhd"], "bhsd": PAGES["hnd"]}  # a page a sequence
CODES = {  # one tensor, no heads
    "code_rows": (("codes", "page slot dim"),),
    "code_columns": (("codes", "page dim slot"),),
}
ROUNDED = {"float32", "float16", "bfloat16"}

_STRIDED = {"strides": {"contiguous", "outer", "all"}}
_INDEXED = {**_STRIDED, "index_dtype": {"int32", "int64"}}
_FUSED = {"layout": {"fused"}, "dtype": set(DTYPES), **_STRIDED}
_MOVED = {"layout": {*PAGES, *CONTIGUOUS, *CODES}, "dtype": set(DTYPES), **_INDEXED}
OFFERS = {
    "merge_kv": _FUSED,
    "extract_k": _FUSED,
    "extract_v": _FUSED,
    "append": _MOVED,
    "gather": _MOVED,
    "paged_decode": {"layout": {*PAGES, *CONTIGUOUS}, "dtype": ROUNDED, "num_splits": range(1, 65), **_INDEXED},
    "merge_states": {"dtype": ROUNDED, **_STRIDED},
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan"},
    "table_padding": {"valid", "minus_one"},
    "empty_rows": "zero",
    "deterministic": True,
}
ARITHMETIC = {
    "tile": 8,  # attention.cuh, TILE
    "exp_error": 2.0**-22,  # expf of CUDA and of glibc: at most 2 ulp
    "normalises_first": False,  # one division, when the last key is in
    "merge_levels": 1,
    "renormalises": True,  # the merge divides by the sum of its own weights
    "flushes_subnormals": False,
}
IN_PLACE = {"append": "cache"}

THREADS = 64
"""Of every block; attention.cuh relies on it."""

Cache = Mapping[str, DeviceArray]


def to_device(array: Array) -> DeviceArray:
    return DeviceArray.of(array)


def to_host(handle: DeviceArray) -> Array:
    return handle.numpy()


def attest() -> dict[str, Any]:
    place = runtime.current()
    return {
        "launches": place.launches,
        "device": place.device,
        "mode": place.mode,
        "compilations": place.compilations,
    }


def merge_kv(k: DeviceArray, v: DeviceArray) -> DeviceArray:
    num_tokens, num_kv_heads, head_dim = k.shape
    kv = DeviceArray((num_tokens, 2 * num_kv_heads, head_dim), k.dtype)
    told = arguments.MergeKv(_tensor(k), _tensor(v), _tensor(kv), num_kv_heads, head_dim)
    _launch(f"merge_kv_{k.dtype.itemsize}", (num_tokens,), told)
    return kv


def extract_k(kv: DeviceArray) -> DeviceArray:
    return _extract(kv, first_row=0)


def extract_v(kv: DeviceArray) -> DeviceArray:
    return _extract(kv, first_row=1)


def append(cache: Cache, k: DeviceArray, v: DeviceArray | None, slot_mapping: DeviceArray, *, layout: str) -> Cache:
    pages = Pages.of(cache, layout)
    told = arguments.Append(
        k_cache=pages.k,
        v_cache=pages.v,
        k=_tokens(k),
        v=_tokens(v),
        slot_mapping=_tensor(slot_mapping),
        page_size=pages.page_size,
        num_kv_heads=pages.num_kv_heads,
        head_dim=pages.head_dim,
    )
    _launch(f"append_{k.dtype.itemsize}_{slot_mapping.dtype}", k.shape[:1], told)
    return cache


def gather(
    cache: Cache, block_table: DeviceArray, kv_lens: DeviceArray, *, layout: str
) -> tuple[DeviceArray, DeviceArray | None]:
    pages = Pages.of(cache, layout)
    *starts, total = accumulate(to_host(kv_lens).tolist(), initial=0)
    token = (pages.head_dim,) if layout in CODES else (pages.num_kv_heads, pages.head_dim)
    k = DeviceArray((total, *token), pages.dtype)
    v = None if layout in CODES else DeviceArray(k.shape, k.dtype)
    first_rows = to_device(np.array(starts, np.int64))
    told = arguments.Gather(
        k_cache=pages.k,
        v_cache=pages.v,
        k=_tokens(k),
        v=_tokens(v),
        block_table=_tensor(block_table),
        kv_lens=_tensor(kv_lens),
        starts=_tensor(first_rows),
        page_size=pages.page_size,
        num_kv_heads=pages.num_kv_heads,
        head_dim=pages.head_dim,
    )
    _launch(f"gather_{pages.dtype.itemsize}_{block_table.dtype}", block_table.shape, told)
    return k, v


def paged_decode(
    q: DeviceArray,
    cache: Cache,
    block_table: DeviceArray,
    kv_lens: DeviceArray,
    *,
    layout: str,
    sm_scale: float,
    num_splits: int = 1,
) -> tuple[DeviceArray, DeviceArray]:
    pages = Pages.of(cache, layout)
    num_seqs, num_q_heads, head_dim = q.shape
    outs = DeviceArray((num_splits, *q.shape), np.dtype(np.float32))
    lses = DeviceArray((num_splits, num_seqs, num_q_heads), np.dtype(np.float32))
    told = arguments.Decode(
        q=_tensor(q),
        k_cache=pages.k,
        v_cache=pages.v,
        block_table=_tensor(block_table),
        kv_lens=_tensor(kv_lens),
        outs=_tensor(outs),
        lses=_tensor(lses),
        page_size=pages.page_size,
        group=num_q_heads // pages.num_kv_heads,
        head_dim=head_dim,
        sm_scale=sm_scale,
    )
    shared_bytes = 2 * head_dim * outs.dtype.itemsize  # q and the accumulator
    _launch(f"decode_{q.dtype}_{block_table.dtype}", (num_seqs, num_q_heads, num_splits), told, shared_bytes)
    return _merge(outs, lses, q.dtype)


def merge_states(outs: DeviceArray, lses: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    return _merge(outs, lses, outs.dtype)


@dataclass(frozen=True)
class Pages:
    """How the kernels find K and V in a cache, and its sizes."""

    k: arguments.Paged
    v: arguments.Paged
    dtype: np.dtype[Any]
    page_size: int
    num_kv_heads: int
    head_dim: int

    @staticmethod
    def of(cache: Cache, layout: str) -> Pages:
        """Sizes and strides of a cache's fields, by the names of their axes."""
        fields = (PAGES | CONTIGUOUS | CODES)[layout]
        k, *v = (_paged(cache[field], axes.split(), side) for side, (field, axes) in enumerate(fields))
        first, axes = fields[0]
        size = dict(zip(axes.split(), cache[first].shape, strict=True))
        return Pages(
            k=k,
            v=v[0] if v else arguments.Paged(),
            dtype=cache[first].dtype,
            page_size=size["slot"],
            num_kv_heads=size["row"] // 2 if "row" in size else size.get("head", 1),
            head_dim=size["dim"] if "dim" in size else size["chunk"] * size["inner"],
        )


def _paged(field: DeviceArray, axes: list[str], side: int) -> arguments.Paged:
    """Where one side, 0 K or 1 V, begins in a field of a cache, and its strides."""
    size = dict(zip(axes, field.shape, strict=True))
    stride = dict(zip(axes, field.strides, strict=True))
    inner = "dim" if "dim" in stride else "inner"
    row = stride.get("row", 0)  # V begins one row behind K, and a head is two rows
    return arguments.Paged(
        data=field.address + side * row * field.dtype.itemsize,
        page=stride["page"],
        slot=stride["slot"],
        head=2 * row if "row" in stride else stride.get("head", 0),
        chunk=stride.get("chunk", 0),
        inner=stride[inner],
        width=size[inner],
    )


def _tensor(array: DeviceArray) -> arguments.Tensor:
    return arguments.Tensor(array.address, array.strides)


def _tokens(rows: DeviceArray | None) -> arguments.Tensor:
    """[num_tokens, num_kv_heads, head_dim], where codes have no axis of heads; a null pointer for no rows."""
    if rows is None:
        return arguments.Tensor()
    if len(rows.shape) == 3:
        return _tensor(rows)
    token, dim = rows.strides
    return arguments.Tensor(rows.address, (token, 0, dim))


def _extract(kv: DeviceArray, first_row: int) -> DeviceArray:
    num_tokens, num_rows, head_dim = kv.shape
    rows = DeviceArray((num_tokens, num_rows // 2, head_dim), kv.dtype)
    told = arguments.Extract(_tensor(kv), _tensor(rows), first_row, num_rows // 2, head_dim)
    _launch(f"extract_{kv.dtype.itemsize}", (num_tokens,), told)
    return rows


def _merge(outs: DeviceArray, lses: DeviceArray, dtype: np.dtype[Any]) -> tuple[DeviceArray, DeviceArray]:
    num_parts, num_seqs, num_q_heads, head_dim = outs.shape
    out = DeviceArray((num_seqs, num_q_heads, head_dim), dtype)
    lse = DeviceArray((num_seqs, num_q_heads), lses.dtype)
    told = arguments.MergeStates(_tensor(outs), _tensor(lses), _tensor(out), _tensor(lse), num_parts, head_dim)
    _launch(f"merge_{outs.dtype}_into_{dtype}", lse.shape, told)
    return out, lse


def _launch(kernel: str, grid: tuple[int, ...], told: Any, shared_bytes: int = 0) -> None:
    """A grid without blocks is not launched: CUDA refuses it, and there is nothing to do."""
    if math.prod(grid):
        x, y, z = (*grid, 1, 1)[:3]
        runtime.current().launch(kernel, (x, y, z), (THREADS, 1, 1), shared_bytes, told)
