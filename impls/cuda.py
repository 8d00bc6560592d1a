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
import sys
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import arguments, pq, runtime
from kvconform.impls.cuda_kernels.build import sanitized_environment as sanitized_environment
from kvconform.impls.cuda_kernels.launches import launch, merge, tensor
from kvconform.impls.cuda_kernels.pages import ALONE, LINES, PLAIN, SCALE, UNEVEN, Cache, Pages, page_axis
from kvconform.impls.cuda_kernels.runtime import Array, DeviceArray
from kvconform.impls.host_kernels.pq_caches import PQCache
from kvconform.specs.dtypes import DTYPES

NAME = "cuda"
BACKEND = "cuda"
REQUIRES = ("numpy", "ml_dtypes")
PROGRAMS = ("g++", "clang++", "nvcc")

ROUNDED = {"float32", "float16", "bfloat16"}
NARROW = {"float8_e4m3fn", "int8"}
ATTENDED = {  # most rows differ in strides alone; here are some of those, and one of each kind that differs in more
    *("nhd", "hnd", "heads_first", "split_x", "interleaved", "bshd", "bhsd"),
    *("token_slots", "trtllm_blocks", "packed"),
}

_STRIDED = {"strides": {"contiguous", "outer", "all"}}
_INDEXED = {**_STRIDED, "index_dtype": {"int32", "int64"}}
_TABLES = {"table_form": {"block_table", "csr", "token_slots"}}
_FUSED = {"layout": {"fused"}, "dtype": set(DTYPES), **_STRIDED}
_MOVED = {"layout": set(LINES), "dtype": set(DTYPES), **_INDEXED}
_UPDATED = {"nhd", "interleaved", "trtllm_blocks", "bshd"}
_ATTENTION = {
    "dtype": ROUNDED,
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
    "copy_pages": _INDEXED,
    "paged_decode": {
        "into": {"out", "lse", "workspace"},
        **_TABLES,
        **_ATTENTION,
        "layout": ATTENDED | set(UNEVEN),
        "dtype": ROUNDED | NARROW,
        "q_dtype": ROUNDED,
        "kv_scales": {"none", "tensor", "head", "page", "token"},
    },
    "append_decode": {"layout": _UPDATED, "into": {"out", "lse", "workspace"}, **_ATTENTION},
    "merge_states": {"dtype": ROUNDED, "into": {"out", "lse"}, **_STRIDED},
    "pq_encode": {"q_dtype": ROUNDED, **_STRIDED},
    "pq_decode": {"q_dtype": ROUNDED, **_STRIDED},
    "pq_append": {"q_dtype": ROUNDED, **_INDEXED},
    "pq_decode_attention": {"q_dtype": ROUNDED, "num_splits": range(1, 65), "into": {"out", "lse"}, **_INDEXED},
    "pq_cache": {"q_dtype": ROUNDED},
}
WHY_NOT = {
    "page_manager": "bookkeeping of the host, that no kernel takes part in: numpy_ref's",
    **dict.fromkeys(
        ATTENDED - _UPDATED, "append_decode is append and paged_decode, which are tried with what it leaves out"
    ),
    **dict.fromkeys(
        set(PLAIN) - ATTENDED,
        "paged_decode finds a key by the strides that append and gather are tried with: nothing in it knows the row",
    ),
    "layout": "append and gather move whole elements of one K and one V of the same shape, or of K alone; decode has "
    "one type of numbers a cache, and one scale a head of a token",
    "dtype": "the kernels move whole bytes; what is narrower lies only in rows that are not offered",
    "csr": "append_decode looks slots up on the host, in a block table",
    "narrow": "codes of less than a byte lie only in rows that are not offered",
    "float8_e5m2": "float8_e4m3fn's kernels compiled again; that it widens is tested at every bit pattern",
    "sparse": "to_device copies into device memory, on a CPU as on a GPU",
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan", "inf"},
    "table_padding": {"valid", "minus_one", "huge"},
    "evicted_pages": {"kept", "null", "minus_one"},
    "sm_scale_of_none": "head_dim",
    "slots_out_of_range": "drop",
    "duplicate_slots": "undefined",  # a block a token: on a GPU two of them write at once
    "padding": "kept",
    "page_moves": {"apart", "swap"},
    "empty_rows": "zero",
    "invariances": {"batch", "heads", "layouts"},  # a block has one q head of one query row; strides are data
    "deterministic": True,
}
ARITHMETIC = {
    "tile": 8,  # attention.cuh, TILE; over codes it is pq.TILE or more, and over the residual this one again
    "exp_error": 2.0**-22,  # expf of CUDA and of glibc: at most 2 ulp
    "normalises_first": False,  # one division, when the last key is in
    "merge_levels": 1,
    "renormalises": True,  # the merge divides by the sum of its own weights
    "flushes_subnormals": False,
    "expands_distance": False,  # pq.cuh: differences, squared
    "table_format": None,  # its entries are float32 sums, to which the sum over subspaces adds no longer a chain
}
IN_PLACE = {"append": "cache", "copy_pages": "cache", "append_decode": "cache", "pq_append": "cache"}

Table = DeviceArray | dict[str, DeviceArray]
"""A block table, or the arrays of CSR: of pages, or of the slots of tokens."""


def to_device(array: Array) -> DeviceArray:
    return DeviceArray.of(array)


def to_host(handle: DeviceArray) -> Array:
    return handle.numpy()


def attest() -> dict[str, Any]:
    place = runtime.current()
    places = [place, *runtime.FURTHER]
    return {
        "launches": sum(one.launches for one in places),
        "device": place.device,
        "mode": place.mode,
        "compilations": sum(one.compilations for one in places),
    }


def merge_kv(k: DeviceArray, v: DeviceArray) -> DeviceArray:
    num_tokens, num_kv_heads, head_dim = k.shape
    kv = DeviceArray((num_tokens, 2 * num_kv_heads, head_dim), k.dtype)
    told = arguments.MergeKv(tensor(k), tensor(v), tensor(kv), num_kv_heads, head_dim)
    launch(f"merge_kv_{k.dtype.itemsize}", (num_tokens,), told)
    return kv


def extract_k(kv: DeviceArray) -> DeviceArray:
    return _extract(kv, first_row=0)


def extract_v(kv: DeviceArray) -> DeviceArray:
    return _extract(kv, first_row=1)


def append(
    cache: Cache,
    k: DeviceArray,
    v: DeviceArray | None,
    slot_mapping: DeviceArray,
    *,
    layout: str,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    page_size: int | None = None,
) -> Cache:
    pages = Pages.of(cache, layout, num_kv_heads=num_kv_heads, head_dim=head_dim, page_size=page_size)
    told = arguments.Append(
        k_cache=pages.k,
        v_cache=pages.v,
        k=_tokens(k),
        v=_tokens(v),
        slot_mapping=_of_sides(slot_mapping, axes=1),
        num_slots=pages.num_pages * pages.page_size,
        page_size=pages.page_size,
        num_kv_heads=pages.num_kv_heads,
        head_dim=pages.head_dim,
    )
    launch(f"append_{k.dtype.itemsize}_{slot_mapping.dtype}", k.shape[:1], told)
    return cache


def gather(
    cache: Cache,
    block_table: Table,
    kv_lens: DeviceArray,
    *,
    layout: str,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    page_size: int | None = None,
    k: DeviceArray | None = None,
    v: DeviceArray | None = None,
) -> tuple[DeviceArray, DeviceArray | None]:
    pages = Pages.of(cache, layout, num_kv_heads=num_kv_heads, head_dim=head_dim, page_size=page_size)
    lens = _lengths(block_table, kv_lens, pages.page_size)
    *starts, total = accumulate(lens, initial=0)
    k = k or DeviceArray((total, *pages.token), pages.dtype)
    v = None if layout in ALONE else v or DeviceArray(k.shape, k.dtype)
    first_rows = to_device(np.array(starts, np.int64))
    told = arguments.Gather(
        k_cache=pages.k,
        v_cache=pages.v,
        k=_tokens(k),
        v=_tokens(v),
        starts=tensor(first_rows),
        table=_table(block_table, kv_lens, pages.page_size),
        num_kv_heads=pages.num_kv_heads,
        head_dim=pages.head_dim,
    )
    most = -(-max(lens, default=0) // pages.page_size)
    launch(f"gather_{pages.dtype.itemsize}_{kv_lens.dtype}", (len(lens), most), told)
    return k, v


def copy_pages(cache: Cache, page_mapping: DeviceArray, *, layout: str) -> Cache:
    """By way of memory of its own, every source before any target: pages may be swapped."""
    sources, targets = (tensor(page_mapping[(slice(None), slice(side, side + 1))]) for side in (0, 1))
    for name, array in cache.items():
        axis = page_axis(layout, name)
        size, stride = (list(of[:axis]) + list(of[axis + 1 :]) for of in (array.shape, array.strides))
        staged = DeviceArray((page_mapping.shape[0], *size), array.dtype)
        between = arguments.Pages(staged.address, staged.strides[0], staged.strides[1:])
        page_of = partial(arguments.Pages, array.address, array.strides[axis], tuple(stride))
        sizes = (*size, 1, 1, 1, 1)[: arguments.AXES]
        for source, target in ((page_of(sources), between), (between, page_of(targets))):
            told = arguments.CopyPages(source, target, sizes)
            launch(f"copy_pages_{array.dtype.itemsize}_{page_mapping.dtype}", page_mapping.shape[:1], told)
    return cache


def _workspace_bytes(
    q: DeviceArray,
    cache: Cache,
    *_: Any,
    layout: str,
    num_splits: int = 1,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    page_size: int | None = None,
    dtype: str | None = None,
    **options: Any,
) -> int:
    pages = Pages.of(cache, layout, num_kv_heads=num_kv_heads, head_dim=head_dim, page_size=page_size, dtype=dtype)
    return _bytes_of_parts(q, num_splits, pages.head_dim_v)


def _bytes_of_parts(q: DeviceArray, num_splits: int, head_dim_v: int) -> int:
    """The partial results of splits: out and lse, float32."""
    num_rows, num_q_heads, _ = q.shape
    return num_splits * num_rows * num_q_heads * (head_dim_v + 1) * 4


WORKSPACE = {
    "paged_decode": _workspace_bytes,
    "append_decode": lambda q, k, v, cache, *tables, **options: _workspace_bytes(q, cache, *tables, **options),
}


def paged_decode(
    q: DeviceArray,
    cache: Cache,
    block_table: Table,
    kv_lens: DeviceArray,
    *,
    layout: str,
    sm_scale: float | None = None,
    num_splits: int = 1,
    k_scale: DeviceArray | None = None,
    v_scale: DeviceArray | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: DeviceArray | None = None,
    alibi_slopes: DeviceArray | None = None,
    q_lens: DeviceArray | None = None,
    tree_mask: DeviceArray | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    head_dim_v: int | None = None,
    page_size: int | None = None,
    dtype: str | None = None,
    out: DeviceArray | None = None,
    lse: DeviceArray | None = None,
    workspace: DeviceArray | None = None,
) -> tuple[DeviceArray, DeviceArray]:
    """`head_dim` tells what `head_dim_v` does."""
    pages = Pages.of(cache, layout, num_kv_heads=num_kv_heads, head_dim=head_dim, page_size=page_size, dtype=dtype)
    num_rows, num_q_heads, _ = q.shape
    held = workspace or DeviceArray((_bytes_of_parts(q, num_splits, pages.head_dim_v),), np.dtype(np.uint8))
    outs = held.part(0, (num_splits, num_rows, num_q_heads, pages.head_dim_v), np.dtype(np.float32))
    lses = held.part(4 * math.prod(outs.shape), outs.shape[:-1], outs.dtype)
    features = arguments.Features(
        q_lens=tensor(q_lens),
        sinks=tensor(sinks),
        alibi_slopes=tensor(alibi_slopes),
        tree_mask=tensor(tree_mask),
        window=window or 0,
        soft_cap=soft_cap or 0.0,
    )
    told = arguments.Decode(
        q=tensor(q),
        k_cache=pages.k,
        v_cache=pages.v,
        k_scale=pages.k_scale if k_scale is None else _bytes_of_scales(k_scale),
        v_scale=pages.v_scale if v_scale is None else _bytes_of_scales(v_scale),
        outs=tensor(outs),
        lses=tensor(lses),
        table=_table(block_table, kv_lens, pages.page_size),
        group=num_q_heads // pages.num_kv_heads,
        head_dim=pages.head_dim,
        head_dim_v=pages.head_dim_v,
        q_format=arguments.Q_FORMATS.index(q.dtype.name),
        sm_scale=pages.head_dim**-0.5 if sm_scale is None else sm_scale,
        features=features,
    )
    featured = any(given is not None for given in (q_lens, sinks, alibi_slopes, window, soft_cap))
    kernel = "decode_features" if featured or pages.dtype.name in NARROW else "decode"
    shared_bytes = (pages.head_dim + pages.head_dim_v) * outs.dtype.itemsize  # q and the accumulator
    launch(f"{kernel}_{pages.dtype}_{kv_lens.dtype}", (num_rows, num_q_heads, num_splits), told, shared_bytes)
    return merge(outs, lses, q.dtype, out, lse)


def append_decode(
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    cache: Cache,
    block_table: DeviceArray,
    kv_lens: DeviceArray,
    *,
    layout: str,
    sm_scale: float | None = None,
    q_lens: DeviceArray | None = None,
    **options: Any,
) -> tuple[DeviceArray, DeviceArray, Cache]:
    """append of the newest tokens, whose slots are worked out on the host, then paged_decode over what that leaves."""
    told = {name: options[name] for name in ("num_kv_heads", "head_dim", "page_size") if name in options}
    size = Pages.of(cache, layout, **{"num_kv_heads": None, "head_dim": None, "page_size": None, **told}).page_size
    lengths, table = to_host(kv_lens), to_host(block_table)
    lens = np.ones_like(lengths) if q_lens is None else to_host(q_lens)
    seq = np.repeat(np.arange(len(lens)), lens)
    position = lengths[seq] - np.cumsum(lens)[seq] + np.arange(len(seq))
    slots = np.moveaxis(table[seq, ..., position // size], 0, -1).astype(np.int64) * size + position % size
    append(cache, k, v, to_device(np.ascontiguousarray(slots)), layout=layout, **told)
    attention = {"layout": layout, "sm_scale": sm_scale, "q_lens": q_lens, **options}
    return *paged_decode(q, cache, block_table, kv_lens, **attention), cache


def merge_states(
    outs: DeviceArray, lses: DeviceArray, *, out: DeviceArray | None = None, lse: DeviceArray | None = None
) -> tuple[DeviceArray, DeviceArray]:
    return merge(outs, lses, outs.dtype, out, lse)


pq_encode, pq_decode = pq.pq_encode, pq.pq_decode
pq_append, pq_decode_attention = pq.pq_append, pq.pq_decode_attention


def pq_cache(k_codebooks: DeviceArray, v_codebooks: DeviceArray, **sizes: Any) -> PQCache:
    return PQCache(sys.modules[__name__], k_codebooks, v_codebooks, **sizes)


def _of_sides(table: DeviceArray, axes: int) -> arguments.Tensor:
    """A table with its sides, K and V, as last axis; one of no more `axes` serves both."""
    *outer, last = table.strides
    side = outer.pop() if len(table.strides) > axes else 0
    return arguments.Tensor(table.address, (*outer, last, side))


def _table(table: Table, kv_lens: DeviceArray, page_size: int) -> arguments.Table:
    if isinstance(table, DeviceArray):
        return arguments.Table(entries=_of_sides(table, axes=2), lens=tensor(kv_lens), page_size=page_size)
    entries, last = table["kv_indices"], table.get("last_page_len")
    return arguments.Table(
        entries=arguments.Tensor(entries.address, (0, *entries.strides)),
        begins=tensor(table["kv_indptr"]),
        lens=tensor(last),
        of_tokens=last is None,
        page_size=page_size,
    )


def _lengths(table: Table, kv_lens: DeviceArray, page_size: int) -> list[int]:
    """Tokens of each sequence, as the table says where it does."""
    if isinstance(table, DeviceArray):
        return to_host(kv_lens).tolist()
    counts = np.diff(to_host(table["kv_indptr"]))
    if "last_page_len" not in table:
        return counts.tolist()
    return np.where(counts > 0, (counts - 1) * page_size + to_host(table["last_page_len"]), 0).tolist()


def _bytes_of_scales(scale: DeviceArray) -> arguments.Tensor:
    """[1], [head], [page, head] or [page, slot, head], as bytes [page, slot, head, SCALE] that are shared."""
    *places, head = scale.strides
    page, slot = (*places, 0, 0)[:2]
    strides = (page, slot, head if scale.shape[-1] > 1 else 0)
    return arguments.Tensor(scale.address, (*(stride * SCALE for stride in strides), 1))


def _tokens(rows: DeviceArray | None) -> arguments.Tensor:
    """[num_tokens, num_kv_heads, head_dim], where codes have no axis of heads."""
    if rows is None or len(rows.shape) == 3:
        return tensor(rows)
    token, dim = rows.strides
    return arguments.Tensor(rows.address, (token, 0, dim))


def _extract(kv: DeviceArray, first_row: int) -> DeviceArray:
    num_tokens, num_rows, head_dim = kv.shape
    rows = DeviceArray((num_tokens, num_rows // 2, head_dim), kv.dtype)
    told = arguments.Extract(tensor(kv), tensor(rows), first_row, num_rows // 2, head_dim)
    launch(f"extract_{kv.dtype.itemsize}", (num_tokens,), told)
    return rows
