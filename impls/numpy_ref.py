"""The reference in numpy: plain reshape and transposition, float32 online softmax.

It reads every layout through views (`numpy_kernels/`) and never calls the suite's index formula, so that a wrong row of
`specs/layouts.py` cannot agree with itself.
"""

import math
import sys
from itertools import pairwise

import numpy as np

from kvconform.impls.host_kernels.pq_caches import PageManager, PQCache
from kvconform.impls.host_kernels.pq_checks import require_pools
from kvconform.impls.numpy_kernels import pq
from kvconform.impls.numpy_kernels.attended import LAYOUTS, keys_and_values, page_size_of, sequence
from kvconform.impls.numpy_kernels.parts import SIZES, Told
from kvconform.impls.numpy_kernels.tables import slots_of
from kvconform.impls.numpy_kernels.views import PLAIN, UNEVEN, VIEWS

NAME = "numpy_ref"
BACKEND = "numpy"
REQUIRES = ()

_MOVED = {"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8"}
_STORED = _MOVED | {"float4_e2m1fn", "uint4", "uint2"}
_ROUNDED = {"float32", "float16", "bfloat16"}
_ANY = {"strides": {"contiguous", "outer", "all"}}
_UPDATED = {"nhd", "hnd", "split_x", "trtllm_blocks", "interleaved", "packed", "bshd", "cells"}  # one of each kind
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

OFFERS = {
    "merge_kv": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_k": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_v": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "append": {"layout": set(VIEWS), "dtype": _STORED, **_ANY},
    "gather": {"layout": set(VIEWS), "dtype": _STORED, "into": {"k", "v"}, **_TABLES, **_ANY},
    "copy_pages": {"layout": set(VIEWS), "dtype": _STORED, **_ANY},
    "paged_decode": {
        "layout": LAYOUTS,
        "q_dtype": _ROUNDED,
        "kv_scales": {"none", "tensor", "head", "page", "token"},
        "pool": {"dense", "sparse"},
        "into": {"out", "lse", "workspace"},
        **_TABLES,
        **_ATTENTION,
        "dtype": _ROUNDED | {"float8_e4m3fn", "int8", "float4_e2m1fn", "uint4", "uint2"},
    },
    "append_decode": {"layout": _UPDATED, "into": {"out", "lse", "workspace"}, **_ATTENTION},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, "into": {"out", "lse"}, **_ANY},
    "pq_encode": {"q_dtype": _ROUNDED, **_ANY},
    "pq_decode": {"q_dtype": _ROUNDED, **_ANY},
    "pq_append": {"q_dtype": _ROUNDED, **_ANY},
    "pq_decode_attention": {"q_dtype": _ROUNDED, "num_splits": range(1, 65), "into": {"out", "lse"}, **_ANY},
    "page_manager": {},
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
    "invariances": {"batch", "heads", "layouts"},
    "deterministic": True,
}
WHY_NOT = {
    "float8_e5m2": "attention reads it by the line that reads float8_e4m3fn",
    **dict.fromkeys(
        {*PLAIN, *UNEVEN, "mla", "mla_aligned"} - _UPDATED,
        "append_decode is append and paged_decode, which are tried with what it leaves out",
    ),
    "csr": "append_decode writes where a block table says; what it reads, paged_decode reads by tables of every form",
    "sparse": "caches are copied before they are written, and packed codes are expanded: 2**31 elements of memory",
}
_PAGE_AXIS = {"heads_first": 1, "kv_first_nhd": 1, "kv_first_hnd": 1, "fractal": 1}  # first where it is not here
TILE = 16  # keys between two updates of the running maximum
ARITHMETIC = {"tile": TILE, "merge_levels": 1, "renormalises": True}
IN_PLACE = {}


def attest():
    return {"device": "cpu"}


def merge_kv(k, v):
    tokens, heads, dim = k.shape
    return np.concatenate([k, v], axis=-1).reshape(tokens, 2 * heads, dim)


def extract_k(kv):
    return kv[:, 0::2]


def extract_v(kv):
    return kv[:, 1::2]


def _views(cache, layout, **told):
    """Views [page, slot, *token axes] of K and V; None for a side there is not, {part: view} where it has several."""
    return VIEWS[layout](cache, Told(layout, told))


def _whole(cache):
    """The same contents in contiguous arrays: bytes can be taken for another type only where they are neighbours."""
    return {name: np.ascontiguousarray(array) for name, array in cache.items()}


def _of_sides(indices, shared_dims):
    """The indices of K and of V: the same, unless one more axis holds both, as in no table of several arrays."""
    return (
        (indices, indices)
        if isinstance(indices, dict) or indices.ndim == shared_dims
        else (indices[..., 0, :], indices[..., 1, :])
    )


def append(cache, k, v, slot_mapping, *, layout, **told):
    cache = {name: array.copy() for name, array in cache.items()}
    for views, rows, slots in zip(_views(cache, layout, **told), (k, v), _of_sides(slot_mapping, 1), strict=True):
        if views is None:
            continue
        for view, part in [(views[name], rows[name]) for name in views] if isinstance(views, dict) else [(views, rows)]:
            live = (slots >= 0) & (slots < view.shape[0] * view.shape[1])
            page, slot = np.divmod(slots[live], view.shape[1])
            view[page, slot] = part[live].reshape(-1, *view.shape[2:])
    return cache


def copy_pages(cache, page_mapping, *, layout):
    axis = _PAGE_AXIS.get(layout, 0)
    cache = {name: array.copy() for name, array in cache.items()}
    for array in cache.values():
        pages = np.moveaxis(array, axis, 0)
        pages[page_mapping[:, 1]] = pages[page_mapping[:, 0]]
    return cache


def gather(cache, block_table, kv_lens, *, layout, k=None, v=None, **told):
    def part(view, table, into):
        return np.concatenate([sequence(view, at) for at in slots_of(table, kv_lens, view.shape[1])], out=into)

    def side(views, table, into):
        if isinstance(views, dict):
            return {name: part(view, table, into and into[name]) for name, view in views.items()}
        return None if views is None else part(views, table, into)

    return tuple(map(side, _views(_whole(cache), layout, **told), _of_sides(block_table, 2), (k, v)))


def _bias_of(num_rows, num_keys, window, slopes, tree=None):
    """What is added to scores, float32 [heads or 1, rows * group or rows, keys]: ALiBi, and -inf where masked.

    The last of the rows stands at the last key. slopes [heads, group], or None; None where nothing is added at all.
    tree [rows, rows]: which of the last keys a row sees, or None.
    """
    if window is None and slopes is None and num_rows == 1:
        return None
    distance = np.arange(num_keys) - (num_keys - num_rows + np.arange(num_rows)[:, None])
    seen = distance <= 0 if window is None else (distance <= 0) & (distance > -window)
    if tree is not None:
        new = min(num_rows, num_keys)
        seen[:, num_keys - new :] &= tree[:, num_rows - new :]
    if slopes is None:
        return np.where(seen, np.float32(0), np.float32(-np.inf))[None, :, None]
    slant = slopes[:, None, :, None] * distance[None, :, None].astype(np.float32)
    return np.where(seen[None, :, None], slant, np.float32(-np.inf))


def _online_softmax(q, k, v, sm_scale, soft_cap=None, bias=None, sinks=None):
    """q [heads, queries, dim], k and v [keys, heads, dim], all float32: out, lse.

    bias [heads, queries, keys], sinks [heads, queries].
    """
    top = np.full(q.shape[:2], -np.inf, np.float32)
    total = np.zeros(q.shape[:2], np.float32)
    if sinks is not None:
        top, total = np.array(sinks, np.float32), np.ones(q.shape[:2], np.float32)
    out = np.zeros((*q.shape[:2], v.shape[-1]), np.float32)
    for start in range(0, len(k), TILE):
        tile = slice(start, start + TILE)
        score, values = np.einsum("hgd,nhd->hgn", q, k[tile]) * np.float32(sm_scale), v[tile]
        if soft_cap is not None:
            score = np.float32(soft_cap) * np.tanh(score / np.float32(soft_cap))
        if bias is not None:
            masked = bias[..., tile] == -np.inf
            score = np.where(masked, bias[..., tile], score + bias[..., tile])  # a masked key may hold anything
            values = np.where(masked.all((0, 1))[:, None, None], np.float32(0), values)
        new_top = np.maximum(top, score.max(-1))
        reference = np.where(new_top == -np.inf, np.float32(0), new_top)
        keep = np.exp(top - reference)
        p = np.exp(score - reference[..., None])
        total = total * keep + p.sum(-1)
        out = out * keep[..., None] + np.einsum("hgn,nhd->hgd", p, values)
        top = new_top
    live = total > 0
    safe = np.where(live, total, np.float32(1))
    return out / safe[..., None], np.where(live, top + np.log(safe), np.float32(-np.inf))


def _merge(outs, lses):
    """float32 partials, [num_parts, ..., dim] and [num_parts, ...], weighted by exp(lse)."""
    top = lses.max(0)
    weight = np.exp(lses - np.where(top == -np.inf, np.float32(0), top))
    total = weight.sum(0)
    safe = np.where(total > 0, total, np.float32(1))
    outs = np.where(weight[..., None] > 0, outs, np.float32(0))
    out = (weight[..., None] * outs).sum(0) / safe[..., None]
    return out, np.where(total > 0, top + np.log(safe), np.float32(-np.inf))


def _workspace_bytes(q, cache, block_table, kv_lens, *, layout, num_splits=1, **options):
    """The partial results of one sequence, of which all query rows may be: out and lse of each split."""
    rows, num_q_heads, _ = q.shape
    told = {name: options[name] for name in SIZES if name in options}
    dim = _no_tokens(cache, layout, told)[1].shape[-1]
    return num_splits * rows * num_q_heads * (dim + 1) * np.dtype(np.float32).itemsize


def _no_tokens(cache, layout, told):
    """K and V of a sequence that has none: their shapes."""
    nowhere = np.zeros(0, np.int64)
    return keys_and_values(_views(_whole(cache), layout, **told), ((nowhere, nowhere),) * 2, layout, (None, None))


WORKSPACE = {
    "paged_decode": _workspace_bytes,
    "append_decode": lambda q, k, v, cache, *tables, **options: _workspace_bytes(q, cache, *tables, **options),
}


def _partials(workspace, *shape):
    """Partial results in memory that was given, or in their own: outs of a shape, and lses."""
    size = math.prod(shape)
    needed = size + size // shape[-1]
    memory = np.empty(needed, np.float32) if workspace is None else workspace.view(np.float32)[:needed]
    return memory[:size].reshape(shape), memory[size:].reshape(shape[:-1])


def paged_decode(
    q,
    cache,
    block_table,
    kv_lens,
    *,
    layout,
    sm_scale=None,
    num_splits=1,
    k_scale=None,
    v_scale=None,
    window=None,
    soft_cap=None,
    sinks=None,
    alibi_slopes=None,
    q_lens=None,
    tree_mask=None,
    out=None,
    lse=None,
    workspace=None,
    **told,
):
    views, tables = _views(_whole(cache), layout, **told), _of_sides(block_table, 2)
    page_size, (_, no_v) = page_size_of(views), _no_tokens(cache, layout, told)
    num_kv_heads, dim = no_v.shape[1:]
    sm_scale = q.shape[-1] ** -0.5 if sm_scale is None else sm_scale
    out = np.empty((*q.shape[:2], dim), q.dtype) if out is None else out
    lse = np.empty(q.shape[:2], np.float32) if lse is None else lse
    q_ends = np.cumsum(np.ones(len(kv_lens), int) if q_lens is None else q_lens)
    slopes = None if alibi_slopes is None else alibi_slopes.reshape(num_kv_heads, -1)
    num_queries = np.maximum(np.diff(q_ends, prepend=0), 1)  # whoever has none reads nothing, wherever it begins
    oldest = None if window is None else np.maximum(kv_lens - num_queries + 1 - window, 0)
    places = [slots_of(table, kv_lens, page_size, oldest) for table in tables]
    for seq, place in enumerate(zip(*places, strict=True)):
        rows = slice(q_ends[seq - 1] if seq else 0, q_ends[seq])
        if rows.start == rows.stop:
            continue
        k, v = keys_and_values(views, place, layout, (k_scale, v_scale))
        n = len(k)
        of_rows = q[rows].astype(np.float32)
        grouped = _by_kv_head(of_rows, num_kv_heads)
        tree = None if tree_mask is None else tree_mask[rows, : len(of_rows)]
        bias = _bias_of(len(of_rows), int(n), window, slopes, tree)
        bias = None if bias is None else _queries_together(bias, q.shape[1] // num_kv_heads)
        once = {} if sinks is None else {"sinks": _by_kv_head(np.tile(sinks, (len(of_rows), 1)), num_kv_heads)}
        extra = {} if soft_cap is None else {"soft_cap": soft_cap}
        ends = [int(n) * i // num_splits for i in range(num_splits + 1)]
        outs, lses = _partials(workspace, num_splits, *grouped.shape[:2], dim)
        for part, (a, b) in enumerate(pairwise(ends)):
            extra = extra if bias is None else extra | {"bias": bias[..., a:b]}
            outs[part], lses[part] = _online_softmax(
                grouped, k[a:b], v[a:b], sm_scale, **extra, **({} if part else once)
            )
        merged, total = (outs[0], lses[0]) if num_splits == 1 else _merge(outs, lses)
        out[rows] = _by_row(merged, len(of_rows)).astype(q.dtype)
        lse[rows] = _by_row(total, len(of_rows))
    return out, lse


def append_decode(q, k, v, cache, block_table, kv_lens, *, layout, sm_scale=None, q_lens=None, **options):
    """append of the newest tokens, then paged_decode over what that leaves."""
    told = {name: options[name] for name in ("num_kv_heads", "head_dim", "page_size", "dtype") if name in options}
    page_size = _views(cache, layout, **told)[0].shape[1]
    lens = np.ones(len(kv_lens), np.int64) if q_lens is None else np.asarray(q_lens, np.int64)
    seq = np.repeat(np.arange(len(lens)), lens)
    position = np.asarray(kv_lens, np.int64)[seq] - np.cumsum(lens)[seq] + np.arange(len(seq))
    page, slot = np.divmod(position, page_size)
    slots = np.moveaxis(block_table[seq, ..., page], 0, -1).astype(np.int64) * page_size + slot
    cache = append(cache, k, v, slots, layout=layout, **told)
    attention = paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale, q_lens=q_lens, **options)
    return *attention, cache


def _by_kv_head(array, num_kv_heads):
    """[rows, num_q_heads, ...] as [num_kv_heads, rows * group, ...]."""
    rows, num_q_heads, *rest = array.shape
    group = num_q_heads // num_kv_heads
    return array.reshape(rows, num_kv_heads, group, *rest).swapaxes(0, 1).reshape(num_kv_heads, rows * group, *rest)


def _by_row(array, num_rows):
    """[num_kv_heads, rows * group, ...] as [rows, num_q_heads, ...]."""
    heads, queries, *rest = array.shape
    group = queries // max(1, num_rows)
    return array.reshape(heads, num_rows, group, *rest).swapaxes(0, 1).reshape(num_rows, heads * group, *rest)


def _queries_together(bias, group):
    """[heads or 1, rows, group or 1, keys] as [heads or 1, rows * group, keys]."""
    heads, rows, _, keys = bias.shape
    return np.broadcast_to(bias, (heads, rows, group, keys)).reshape(heads, rows * group, keys)


def merge_states(outs, lses, *, out=None, lse=None):
    merged, total = _merge(outs.astype(np.float32), lses)
    return _into(out, merged.astype(outs.dtype)), _into(lse, total)


def _into(given, result):
    if given is None:
        return result
    given[...] = result
    return given


def pq_encode(x, codebooks, *, dtype):
    return pq.encode(x, codebooks, dtype)


def pq_decode(codes, codebooks, *, dtype):
    return pq.decode(codes, codebooks, dtype)


def pq_append(cache, k, v, k_codebooks, v_codebooks, slot_mapping, *, layout, dtype, page_size, num_subspaces):
    require_pools(cache, layout, dtype, page_size, num_subspaces)
    return pq.append(cache, k, v, (k_codebooks, v_codebooks), slot_mapping, layout, dtype)


def pq_decode_attention(
    q,
    cache,
    k_codebooks,
    v_codebooks,
    page_ids,
    kv_lens,
    residual_k,
    residual_v,
    residual_lens,
    *,
    layout,
    dtype,
    page_size,
    num_subspaces,
    sm_scale,
    num_splits,
    out=None,
    lse=None,
):
    books, residual = (k_codebooks, v_codebooks), (residual_k, residual_v)
    require_pools(cache, layout, dtype, page_size, num_subspaces)
    options = layout, dtype, sm_scale, num_splits
    mean, total = pq.attend(q, cache, books, page_ids, kv_lens, residual, residual_lens, *options)
    return _into(out, mean), _into(lse, total)


def page_manager(num_pages):
    return PageManager(num_pages)


def pq_cache(k_codebooks, v_codebooks, **sizes):
    return PQCache(sys.modules[__name__], k_codebooks, v_codebooks, **sizes)
