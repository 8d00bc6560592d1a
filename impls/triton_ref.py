"""Triton kernels of this repository (`impls/triton_kernels`): compiled on a GPU, interpreted on any other machine.

KVCONFORM_TRITON   compiled or interpreted: insist on one (unset: a GPU where torch sees one). A process has one mode,
                   fixed when Triton is imported.
"""

from __future__ import annotations

from typing import Any

import torch

from kvconform.impls.torch_kernels import views
from kvconform.impls.torch_kernels.handles import DEVICE, device_name
from kvconform.impls.torch_kernels.handles import synchronize as synchronize
from kvconform.impls.torch_kernels.handles import to_device as to_device
from kvconform.impls.torch_kernels.handles import to_host as to_host
from kvconform.impls.torch_kernels.tables import Table
from kvconform.impls.torch_kernels.views import Cache, Rows
from kvconform.impls.triton_kernels import MODE, copies, decode, fused, launch, merge, paged, pq
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.operations import OPERATIONS

NAME = "triton_ref"
BACKEND = "triton"
REQUIRES = ("torch", "triton", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small: waking a second thread costs more than it does

_ROUNDED = {"float32", "float16", "bfloat16"}
_NARROW = {"float8_e4m3fn", "int8", "float4_e2m1fn", "uint4"}
_ANY = {"strides": {"contiguous", "outer", "all"}, "static": True}  # static: a GPU compiles, the interpreter is slow
_TABLES = {"table_form": {"block_table", "csr", "token_slots"}}
_INDEXED = {"index_dtype": {"int32", "int64"}, **_ANY}
_FUSED = {"layout": {"fused"}, "dtype": set(DTYPES), **_ANY}
_POOL = {"dense", "sparse"} if DEVICE.type == "cpu" else {"dense"}  # a GPU has memory of its own
_ALIKE = {"heads_first", "kv_first_hnd", "page_first_nhd", "page_first_hnd", "beside_hnd", "packed_hd64"}
_ALIKE |= {"packed_unaligned", "bhsd", "cells", "mla_aligned", "mla_packed", "mla_tokens_last", "code_rows"}
_ALIKE |= {"code_heads"}
_MOVED = {"layout": set(views.ROWS) - _ALIKE, "dtype": set(DTYPES), "pool": _POOL, **_INDEXED}
_RESULTS = {"out", "lse"}
_ATTENDED = views.ATTENDED - {"trtllm_blocks"} - (_ALIKE - views.LATENTS)
_UPDATED = {"nhd", "hnd", "interleaved"}
_ATTENTION = {
    "dtype": _ROUNDED,
    "num_splits": range(1, 65),
    "window": {"min": 0},
    "soft_cap": {"min": 0},
    "sinks": {"none", "drawn", "dominant"},
    "alibi_slopes": {"none", "drawn"},
    "q_lens": {"min": 0},
    "tree_mask": {"none", "drawn"},
    **_INDEXED,
}
OFFERS = {
    "merge_kv": _FUSED,
    "extract_k": _FUSED,
    "extract_v": _FUSED,
    "append": _MOVED,
    "gather": {"into": {"k", "v"}, **_TABLES, **_MOVED},
    "copy_pages": {
        "layout": {row.name for row in OPERATIONS["copy_pages"].layouts} - _ALIKE,
        "pool": _POOL,
        **_INDEXED,
    },
    "paged_decode": {
        "layout": _ATTENDED,
        "q_dtype": _ROUNDED,
        "kv_scales": {"none", "tensor", "head", "page", "token"},
        "pool": _POOL,
        "into": {*_RESULTS, "workspace"},
        **_TABLES,
        **_ATTENTION,
        "dtype": _ROUNDED | _NARROW,
    },
    "append_decode": {"layout": _UPDATED, "ragged": True, "into": {*_RESULTS, "workspace"}, **_ATTENTION},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, "into": _RESULTS, **_ANY},
    "pq_encode": {"q_dtype": _ROUNDED, **_ANY},
    "pq_decode": {"q_dtype": _ROUNDED, **_ANY},
    "pq_append": {"q_dtype": _ROUNDED, **_INDEXED},
    "pq_decode_attention": {"q_dtype": _ROUNDED, "num_splits": range(1, 65), "into": _RESULTS, **_INDEXED},
}


def _workspace_bytes(q: torch.Tensor, cache: Cache, *_: Any, layout: str, num_splits: int = 1, **options: Any) -> int:
    told = {name: options[name] for name in views.TOLD if name in options}
    _, (v,) = views.attended(cache, layout, **told)
    return decode.workspace_bytes(q, v.codes.num_values, num_splits)


WORKSPACE = {
    "paged_decode": _workspace_bytes,
    "append_decode": lambda q, k, v, cache, *tables, **options: _workspace_bytes(q, cache, *tables, **options),
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan", "inf"},
    "table_padding": {"valid", "minus_one", "huge"},
    "evicted_pages": {"kept", "null", "minus_one"},
    "sm_scale_of_none": "head_dim",
    "slots_out_of_range": "drop",
    "duplicate_slots": "undefined",  # programs store in any order, and each of them stores only a part of a token
    "page_moves": {"apart", "swap"},
    "empty_rows": "zero",
    "invariances": {"batch", "heads"},  # a task has one kv head of one sequence
    "deterministic": True,
}
ARITHMETIC = {
    "tile": decode.TILE,
    "exp_error": 2.0**-21,  # ex2.approx of a GPU is within 2 ulp, numpy's exp in the interpreter within 2.6
    "tanh_error": 2.0**-21,  # decode.py, _bent: half an exp_error, and three roundings of numbers up to 1
    "normalises_first": False,  # decode.py: one division, when the last key is in
    "merge_levels": 1,  # merge.py: one sum over all parts
    "renormalises": True,  # merge.py: divided by the sum of its own weights
}
"""Of codes, too (pq.py): the table of q against centroids is float32, and its entries are summed over subspaces; the
residual is one part more; a distance is a sum of squared differences, which has no product of x and centroid.
"""
IN_PLACE = {"append": "cache", "copy_pages": "cache", "append_decode": "cache", "pq_append": "cache"}
WHY_NOT = {
    "page_manager": "bookkeeping of the host, that no kernel takes part in: numpy_ref's",
    "pq_cache": "the object is torch_ref's, and calls pq_append and pq_decode_attention, which are tried alone",
    **dict.fromkeys(
        _ATTENDED - _UPDATED,
        "append_decode finds a key as append and paged_decode do, which are tried with what it leaves out",
    ),
    "csr": "append_decode writes where a block table says; what it reads, paged_decode reads by tables of every form",
    "layout": "here whole elements move; the row has records of several types, or codes of less than a byte",
    **dict.fromkeys(_ALIKE, "a row that is offered differs from it in strides alone, which the kernels are told"),
    "fractal": "heads and dims are joined and cut again by 16, so that a head of 24 dims has no stride",
    "trtllm_blocks": "K and V have page tables of their own, and the kernel reads one",
    "float8_e5m2": "attention decodes one of the two 8-bit floats, bit by bit",
    **dict.fromkeys(("kivi", "kivi_torch", "uint2"), "codes, and what groups of them share, lie along slots in words"),
    "dtype": "here whole elements move; codes of less than a byte are packed into words",
}


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


def append(cache: Cache, k: Rows, v: Rows, slot_mapping: torch.Tensor, *, layout: str, **told: int | None) -> Cache:
    for number, (side, given) in enumerate(zip(views.sides(cache, layout, **told), (k, v), strict=True)):
        for view, rows in views.given(side, given):
            paged.append(view, rows, views.of_side(slot_mapping, number, 1))
    return cache


def gather(
    cache: Cache,
    block_table: Table,
    kv_lens: torch.Tensor,
    *,
    layout: str,
    k: Rows = None,
    v: Rows = None,
    **told: int | None,
) -> tuple[Rows, Rows]:
    results = []
    for number, (side, given) in enumerate(zip(views.sides(cache, layout, **told), (k, v), strict=True)):
        table = views.of_side(block_table, number, 2)
        if given is None:
            results.append(views.taken(side, [paged.gather(view, table, kv_lens) for view in side]))
            continue
        for view, rows in views.given(side, given):
            paged.gather(view, table, kv_lens, rows)
        results.append(given)
    return results[0], results[1]


def copy_pages(cache: Cache, page_mapping: torch.Tensor, *, layout: str) -> Cache:
    for tensor in cache.values():
        copies.copy_pages(tensor.movedim(views.page_axis(layout), 0), page_mapping)
    return cache


def paged_decode(
    q: torch.Tensor,
    cache: Cache,
    block_table: Table,
    kv_lens: torch.Tensor,
    *,
    layout: str,
    sm_scale: float | None = None,
    num_splits: int = 1,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    q_lens: torch.Tensor | None = None,
    tree_mask: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    workspace: torch.Tensor | None = None,
    **told: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return decode.paged_decode(
        q,
        *views.attended(cache, layout, **told),
        block_table,
        kv_lens,
        q.shape[2] ** -0.5 if sm_scale is None else sm_scale,
        num_splits,
        scales=(k_scale, v_scale),
        window=window,
        soft_cap=soft_cap,
        sinks=sinks,
        alibi_slopes=alibi_slopes,
        q_lens=q_lens,
        tree_mask=tree_mask,
        into=(out, lse),
        workspace=workspace,
    )


def append_decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cache: Cache,
    block_table: torch.Tensor,
    kv_lens: torch.Tensor,
    *,
    layout: str,
    sm_scale: float | None = None,
    q_lens: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, Cache]:
    """In one kernel: new tokens are attended in the rows that are given, and each is written by the task it asks."""
    told = {name: options.pop(name) for name in ("num_kv_heads", "head_dim", "page_size") if name in options}
    sides = views.attended(cache, layout, **told)
    given = {"num_splits": 1, **options, "q_lens": q_lens, "new": (k, v), "into": (out, lse)}
    scale = q.shape[2] ** -0.5 if sm_scale is None else sm_scale
    return *decode.paged_decode(q, *sides, block_table, kv_lens, scale, **given), cache


def merge_states(
    outs: torch.Tensor, lses: torch.Tensor, *, out: torch.Tensor | None = None, lse: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    return merge.merge_states(outs, lses, outs.dtype, (out, lse))


# --- product-quantised


def pq_encode(x: torch.Tensor, codebooks: torch.Tensor, **told: Any) -> torch.Tensor:
    return pq.pq_encode(x, codebooks, **told)


def pq_decode(codes: torch.Tensor, codebooks: torch.Tensor, **told: Any) -> torch.Tensor:
    return pq.pq_decode(codes, codebooks, **told)


def pq_append(cache: Cache, *tokens: torch.Tensor, **told: Any) -> Cache:
    return pq.pq_append(cache, *tokens, **told)


def pq_decode_attention(
    q: torch.Tensor, cache: Cache, *attended: torch.Tensor, **told: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return pq.pq_decode_attention(q, cache, *attended, **told)
