"""The reference in torch: whole batches as tensors, attention in two passes, on a GPU where torch sees one.

A second reading beside `numpy_ref`; the two share nothing. Bytes move as integers of their width, so that no NaN meets
a float instruction. Arithmetic is products and sums of float32 tensors and no matrix product, whose precision (TF32,
bfloat16) is a setting of the process that anybody may change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from kvconform.impls.host_kernels.pq_caches import PQCache
from kvconform.impls.torch_kernels import handles, newest, pq, tables, views
from kvconform.impls.torch_kernels.handles import bits as _bits
from kvconform.impls.torch_kernels.handles import into as _into
from kvconform.impls.torch_kernels.slots import last_of_each
from kvconform.impls.torch_kernels.softmax import mean as _mean
from kvconform.impls.torch_kernels.tables import Table
from kvconform.impls.torch_kernels.views import Cache, Numbers, Rows, View

NAME = "torch_ref"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small: waking a second thread costs more than it does

_MOVED = {"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8"}
_ROUNDED = {"float32", "float16", "bfloat16"}
_NARROW = {"float8_e4m3fn", "int8", "float4_e2m1fn", "uint4"}
_ANY = {"strides": {"contiguous", "outer", "all"}}
_UPDATED = {"nhd", "hnd", "trtllm_blocks", "interleaved", "bshd"}
_ATTENTION = {
    "dtype": _ROUNDED,
    "num_splits": range(1, 65),
    "window": {"min": 0},
    "soft_cap": {"min": 0},
    "sinks": {"none", "drawn", "dominant"},
    "alibi_slopes": {"none", "drawn"},
    "q_lens": {"min": 0},
    "tree_mask": {"none", "drawn"},
    **_ANY,
}
_TABLES = {"table_form": {"block_table", "csr", "token_slots"}}
_POOL = {"pool": {"dense", "sparse"} if handles.DEVICE.type == "cpu" else {"dense"}}  # a GPU has memory of its own

OFFERS = {
    "merge_kv": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_k": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_v": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "append": {"layout": set(views.ROWS), "dtype": _MOVED, **_POOL, **_ANY},
    "gather": {"layout": set(views.ROWS), "dtype": _MOVED, "into": {"k", "v"}, **_TABLES, **_POOL, **_ANY},
    "copy_pages": {**_POOL, **_ANY},
    "paged_decode": {
        "layout": views.ATTENDED,
        "q_dtype": _ROUNDED,
        "kv_scales": {"none", "tensor", "head", "page", "token"},
        "into": {"out", "lse"},
        **_POOL,
        **_TABLES,
        **_ATTENTION,
        "dtype": _ROUNDED | _NARROW,
    },
    "append_decode": {"layout": _UPDATED, "into": {"out", "lse"}, **_ATTENTION},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, "into": {"out", "lse"}, **_ANY},
    "pq_encode": {"q_dtype": _ROUNDED, **_ANY},
    "pq_decode": {"q_dtype": _ROUNDED, **_ANY},
    "pq_append": {"q_dtype": _ROUNDED, **_ANY},
    "pq_decode_attention": {"q_dtype": _ROUNDED, "num_splits": range(1, 65), "into": {"out", "lse"}, **_ANY},
    "pq_cache": {"q_dtype": _ROUNDED},
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan", "inf"},
    "table_padding": {"valid", "minus_one", "huge"},
    "evicted_pages": {"kept", "null", "minus_one"},
    "sm_scale_of_none": "head_dim",
    "slots_out_of_range": "drop",
    "duplicate_slots": "last",
    "page_moves": {"apart", "swap"},
    "empty_rows": "zero",
    "deterministic": True,
}
ARITHMETIC = {
    "qk_accumulator": "float32",  # paged_decode: q and k are float32 before they meet
    "softmax_format": "float32",  # _mean: score, weight and total are float32
    "tile": 2**31,  # _mean: the maximum is known before the first exp, and never updated
    "normalises_first": True,  # _mean: `weight / total` meets the values
    "pv_accumulator": "float32",  # _mean: so do the products and their sum
    "merge_levels": 1,  # paged_decode: one _mean over all parts
    "renormalises": True,  # _mean: the weights of parts, too, are divided by their sum
}
"""Of codes, too (pq.py): the table of q against centroids is float32, and its entries are summed over subspaces; the
residual is one part more; a distance is a sum of squared differences, which has no product of x and centroid.
"""
IN_PLACE = {"append": "cache", "copy_pages": "cache", "append_decode": "cache", "pq_append": "cache"}
WHY_NOT = {
    "page_manager": "bookkeeping of the host, that no kernel takes part in: numpy_ref's",
    **dict.fromkeys(
        views.ATTENDED - _UPDATED, "append_decode is append and paged_decode, which are tried with what it leaves out"
    ),
    "csr": "append_decode writes where a block table says; what it reads, paged_decode reads by tables of every form",
    "workspace": "torch allocates what its operators hold in between",
    "layout": "here whole elements move; the row has records of several types, or codes of less than a byte",
    "fractal": "heads and dims are joined and cut again by 16, so that a head of 24 dims has no stride",
    "float8_e5m2": "attention reads it as it reads float8_e4m3fn, by one conversion of torch",
    **dict.fromkeys(("kivi", "kivi_torch", "uint2"), "codes, and what groups of them share, lie along slots in words"),
    "dtype": "here whole elements move; codes of less than a byte are packed into words",
}

to_device, to_host, synchronize = handles.to_device, handles.to_host, handles.synchronize
launches = 0


def attest() -> dict[str, Any]:
    mode = "compiled" if handles.DEVICE.type == "cuda" else "eager"
    return {"launches": launches, "device": handles.device_name(), "mode": mode}


def _kernel(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Count each call that torch is asked to compute."""

    @wraps(operation)
    def launch(*args: Any, **kwargs: Any) -> Any:
        global launches
        launches += 1
        return operation(*args, **kwargs)

    return launch


# --- bytes


@_kernel
def merge_kv(k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([_bits(k), _bits(v)], dim=2).flatten(1, 2).view(k.dtype)


def _extract(kv: Tensor, side: int) -> Tensor:
    return _bits(kv).unflatten(1, (-1, 2)).select(2, side).clone().view(kv.dtype)


@_kernel
def extract_k(kv: Tensor) -> Tensor:
    return _extract(kv, 0)


@_kernel
def extract_v(kv: Tensor) -> Tensor:
    return _extract(kv, 1)


def _memory(view: View) -> Tensor:
    """The bits of a view's elements, and of whatever lies between them, as they follow each other in memory."""
    sizes, steps = view.tensor.shape, view.tensor.stride()
    last = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    return _bits(view.tensor).as_strided((last + 1 if 0 not in sizes else 0,), (1,))


def _at(view: View, pages: Tensor, slots: Tensor) -> Tensor:
    """Where tokens lie in a view's memory: [*pages, head, dim]. One index is gathered by much faster than seven."""
    heads = torch.arange(view.num_heads, device=slots.device)[:, None]
    dims = torch.arange(view.head_dim, device=slots.device)
    _, _, slot, _, head, _, dim = view.tensor.shape
    page, far, near, *within = view.tensor.stride()
    tokens = pages * page + slots // slot * far + slots % slot * near
    split = (heads // head, heads % head, dims // dim, dims % dim)
    return tokens[..., None, None] + sum(index * step for index, step in zip(split, within, strict=True))


@_kernel
def append(cache: Cache, k: Rows, v: Rows, slot_mapping: Tensor, *, layout: str, **told: int | None) -> Cache:
    for number, (side, given) in enumerate(zip(views.sides(cache, layout, **told), (k, v), strict=True)):
        for view, rows in views.given(side, given):
            slots = views.of_side(slot_mapping, number, 1).long()
            live = ((slots >= 0) & (slots < view.num_slots)).nonzero().squeeze(1)
            tokens = live[last_of_each(slots[live])]
            pages = slots[tokens] // view.page_size
            _memory(view)[_at(view, pages, slots[tokens] % view.page_size)] = _bits(rows)[tokens]
    return cache


def _places(view: View, table: Table, seq: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Pages and slots [*seq, *position]; where no token is, whichever of the cache the table points to."""
    pages, slots = tables.places(table, seq, position, view.page_size)
    return pages.clamp(0, max(0, view.tensor.shape[0] - 1)), slots


def _rows(view: View, pages: Tensor, slots: Tensor) -> Tensor:
    """[*pages, head, dim] of one part, in elements of its tensor."""
    memory, slot = _bits(view.tensor), view.tensor.shape[2]
    tokens = memory[:, 0][pages, slots] if memory.shape[1] == 1 else memory[pages, slots // slot, slots % slot]
    rows = tokens.flatten(-4, -3).flatten(-2)  # of [heads, head, dims, dim]
    return rows[..., : view.num_heads, : view.head_dim].view(view.tensor.dtype)


def _positions(view: View, table: Table, num_parts: int) -> Tensor:
    """[num_parts, keys a part]: every position that the table has room for, the last part filled up."""
    keys = -(-tables.room(table, view.page_size) // num_parts)
    return torch.arange(num_parts * keys, device=tables.on(table)).view(num_parts, keys)


def _side_into(given: Rows, result: Rows) -> Rows:
    """The same of K or V, in one part or several."""
    if isinstance(result, dict):
        return {name: _into(given[name] if isinstance(given, dict) else None, rows) for name, rows in result.items()}
    assert not isinstance(given, dict)
    return None if result is None else _into(given, result)


@_kernel
def gather(
    cache: Cache,
    block_table: Table,
    kv_lens: Tensor,
    *,
    layout: str,
    k: Rows = None,
    v: Rows = None,
    **told: int | None,
) -> tuple[Rows, Rows]:
    sides = views.sides(cache, layout, **told)
    position = _positions(sides[0][0], block_table, 1)[0]
    lens = tables.lengths(block_table, kv_lens, sides[0][0].page_size)
    live, seqs = position < lens[:, None], torch.arange(len(lens), device=lens.device)
    both = [views.of_side(block_table, number, 2) for number in (0, 1)]
    rows = [
        [_rows(view, *_places(view, table, seqs, position))[live] for view in side]
        for side, table in zip(sides, both, strict=True)
    ]
    return _side_into(k, views.taken(sides[0], rows[0])), _side_into(v, views.taken(sides[1], rows[1]))


@_kernel
def copy_pages(cache: Cache, page_mapping: Tensor, *, layout: str) -> Cache:
    sources, targets = page_mapping.long().unbind(1)
    for tensor in cache.values():
        pages = _bits(tensor).movedim(views.page_axis(layout), 0)
        pages[targets] = pages[sources]  # what is indexed by a tensor is a copy: all sources are read before
    return cache


# --- attention


def _numbers(side: list[Numbers], pages: Tensor, slots: Tensor, scale: Tensor | None) -> Tensor:
    """float32 [*pages, head, dim] of K or of V.

    scale   what it is multiplied with: one number, or one a head, a page and head, a slot and head
    """
    rows = torch.cat([_dequantised(one, pages, slots) for one in side], -1)
    if scale is None:
        return rows
    return rows * (scale if scale.ndim == 1 else scale[(pages, slots)[: scale.ndim - 1]]).unsqueeze(-1)


_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def _floats(rows: Tensor, of: str) -> Tensor:
    """float32 [..., dim] of numbers of a type that lie in elements, or bytes, of another."""
    if of in ("uint4", "float4_e2m1fn"):  # the even one is low
        codes = torch.stack([rows & 15, rows >> 4], -1).flatten(-2)
        return codes.float() if of == "uint4" else codes.float().new_tensor(_FP4)[codes.int()]
    if of == "float8_e8m0fnu":  # an exponent
        return torch.where(rows == 255, torch.nan, torch.ldexp(torch.ones((), device=rows.device), rows.int() - 127))
    return rows.contiguous().view(getattr(torch, of)).float()


def _dequantised(of: Numbers, pages: Tensor, slots: Tensor) -> Tensor:
    """float32 [*pages, head, dim] of one part, times the scales that lie beside it."""
    rows = _floats(_rows(of.codes, pages, slots), of.codes.of)
    if of.scale is None:
        return rows
    scale = _floats(_rows(of.scale, pages, slots), of.scale.of)
    return rows * scale.repeat_interleave(rows.shape[-1] // scale.shape[-1], -1)


def _queries(q_lens: Tensor | None, kv_lens: Tensor) -> tuple[Tensor, Tensor]:
    """[num_q_rows] sequence and position of each row of q: the newest tokens of every sequence, oldest first."""
    seqs = torch.arange(len(kv_lens), device=kv_lens.device)
    if q_lens is None:
        return seqs, kv_lens - 1
    seq = seqs.repeat_interleave(q_lens)
    newer = q_lens.cumsum(0)[seq] - 1 - torch.arange(len(seq), device=seq.device)
    return seq, kv_lens[seq] - 1 - newer


def _off_the_tree(tree_mask: Tensor, column: Tensor) -> Tensor:
    """bool [row, part, key]: keys that a row's tree hides, of the query token that each is; below 0 they are older."""
    columns = column.flatten(1).clamp(0, tree_mask.shape[1] - 1)
    return (column >= 0) & ~tree_mask.gather(1, columns).view(column.shape)


def _with_sinks(score: Tensor, value: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """One more key in each part, of value 0: in the first one a head's sink [head, group], in all others masked.

    score [row, part, key, head, group], value [row, part, key, head, 1, dim]
    """
    one = score.new_full((*score.shape[:2], 1, *score.shape[3:]), -torch.inf)
    one[:, 0, 0] = sinks
    return torch.cat([score, one], 2), torch.cat([value, torch.zeros_like(value[:, :, :1])], 2)


@_kernel
def paged_decode(
    q: Tensor,
    cache: Cache,
    block_table: Table,
    kv_lens: Tensor,
    *,
    layout: str,
    sm_scale: float | None = None,
    num_splits: int = 1,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    q_lens: Tensor | None = None,
    tree_mask: Tensor | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    **told: int | None,
) -> tuple[Tensor, Tensor]:
    sides = views.attended(cache, layout, **told)
    both, of_k = [views.of_side(block_table, number, 2) for number in (0, 1)], sides[0][0].codes
    seq, own = _queries(q_lens, tables.lengths(block_table, kv_lens, of_k.page_size))
    position = _positions(of_k, both[0], num_splits)
    k, v = (
        _numbers(side, *_places(side[0].codes, table, seq, position), scale).unsqueeze(-2)  # row part key head 1 dim
        for side, table, scale in zip(sides, both, (k_scale, v_scale), strict=True)
    )
    grouped = (k.shape[3], -1)
    sm_scale = q.shape[-1] ** -0.5 if sm_scale is None else sm_scale
    score = (q.float().unflatten(1, grouped)[:, None, None] * k).sum(-1) * sm_scale  # row part key head group
    if soft_cap is not None:
        score = (score / soft_cap).tanh() * soft_cap
    ahead = (position - own[:, None, None])[..., None, None]  # of the query, row part key 1 1
    if alibi_slopes is not None:
        score = score + alibi_slopes.unflatten(0, grouped) * ahead
    unseen = ahead > 0 if window is None else (ahead > 0) | (ahead <= -window)
    if tree_mask is not None:
        assert q_lens is not None
        unseen = unseen | _off_the_tree(tree_mask, position - (kv_lens - q_lens)[seq, None, None])[..., None, None]
    score = score.masked_fill_(unseen, -torch.inf)
    if sinks is not None:
        score, v = _with_sinks(score, v, sinks.unflatten(0, grouped))
    outs, lses = _mean(score, v, axis=2)
    merged, total = _mean(lses, outs, axis=1)
    return _into(out, merged.flatten(1, 2).to(q.dtype)), _into(lse, total.flatten(1, 2))


def append_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: Cache,
    block_table: Tensor,
    kv_lens: Tensor,
    *,
    layout: str,
    sm_scale: float | None = None,
    q_lens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Cache]:
    """append of the newest tokens, then paged_decode over what that leaves."""
    told = {name: options[name] for name in ("num_kv_heads", "head_dim", "page_size") if name in options}
    page_size = views.sides(cache, layout, **told)[0][0].page_size
    slots = newest.slots(block_table, kv_lens, q_lens, page_size)
    append(cache, k, v, slots, layout=layout, **told)
    attention = {"layout": layout, "sm_scale": sm_scale, "q_lens": q_lens, **options}
    return *paged_decode(q, cache, block_table, kv_lens, **attention), cache


@_kernel
def merge_states(
    outs: Tensor, lses: Tensor, *, out: Tensor | None = None, lse: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    merged, total = _mean(lses, outs.float(), axis=0)
    return _into(out, merged.to(outs.dtype)), _into(lse, total)


# --- product-quantised


@_kernel
def pq_encode(x: Tensor, codebooks: Tensor, **told: Any) -> Tensor:
    return pq.pq_encode(x, codebooks, **told)


@_kernel
def pq_decode(codes: Tensor, codebooks: Tensor, **told: Any) -> Tensor:
    return pq.pq_decode(codes, codebooks, **told)


@_kernel
def pq_append(cache: Cache, *tokens: Tensor, **told: Any) -> Cache:
    return pq.pq_append(cache, *tokens, **told)


@_kernel
def pq_decode_attention(q: Tensor, cache: Cache, *attended: Tensor, **told: Any) -> tuple[Tensor, Tensor]:
    return pq.pq_decode_attention(q, cache, *attended, **told)


def pq_cache(k_codebooks: Tensor, v_codebooks: Tensor, **sizes: Any) -> PQCache:
    return PQCache(sys.modules[__name__], k_codebooks, v_codebooks, **sizes)
