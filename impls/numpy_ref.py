"""The reference in numpy: plain reshape and transposition, float32 online softmax.

It reads every layout through views and never calls the suite's index formula, so that a wrong row of `specs/layouts.py`
cannot agree with itself.
"""

from itertools import pairwise

import numpy as np

NAME = "numpy_ref"
BACKEND = "numpy"
REQUIRES = ()

_MOVED = {"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8"}
_PAGED = {"nhd", "hnd", "heads_first", "interleaved", "split_x", "bshd", "bhsd"}
_CODES = {"code_rows", "code_columns"}
_ROUNDED = {"float32", "float16", "bfloat16"}
_ANY = {"strides": {"contiguous", "outer", "all"}}

OFFERS = {
    "merge_kv": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_k": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_v": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "append": {"layout": _PAGED | _CODES, "dtype": _MOVED, **_ANY},
    "gather": {"layout": _PAGED | _CODES, "dtype": _MOVED, **_ANY},
    "paged_decode": {"layout": _PAGED, "dtype": _ROUNDED, "num_splits": range(1, 65), **_ANY},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, **_ANY},
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan"},
    "table_padding": {"valid", "minus_one"},
    "empty_rows": "zero",
    "deterministic": True,
}
_ORDER = {  # of page, slot, head, dim among the axes of a field
    "nhd": (0, 1, 2, 3),
    "hnd": (0, 2, 1, 3),
    "heads_first": (1, 2, 0, 3),
    "bshd": (0, 1, 2, 3),
    "bhsd": (0, 2, 1, 3),
}
TILE = 16  # keys between two updates of the running maximum
ARITHMETIC = {"tile": TILE, "merge_levels": 1, "renormalises": True}
IN_PLACE = {}


def merge_kv(k, v):
    tokens, heads, dim = k.shape
    return np.concatenate([k, v], axis=-1).reshape(tokens, 2 * heads, dim)


def extract_k(kv):
    return kv[:, 0::2]


def extract_v(kv):
    return kv[:, 1::2]


def _views(cache, layout):
    """Views [page, slot, *token axes] of K and V (None for codes), the dim axis still cut where the layout cuts it."""
    if layout == "interleaved":
        return cache["kv"][:, :, 0::2], cache["kv"][:, :, 1::2]
    if layout == "code_rows":
        return cache["codes"], None
    if layout == "code_columns":
        return cache["codes"].transpose(0, 2, 1), None
    if layout == "split_x":
        return cache["k"].transpose(0, 3, 1, 2, 4), cache["v"].transpose(0, 3, 1, 2)
    return cache["k"].transpose(_ORDER[layout]), cache["v"].transpose(_ORDER[layout])


def append(cache, k, v, slot_mapping, *, layout):
    cache = {name: array.copy() for name, array in cache.items()}
    live = slot_mapping >= 0
    for view, rows in zip(_views(cache, layout), (k, v), strict=True):
        if rows is not None:
            page, slot = np.divmod(slot_mapping[live], view.shape[1])
            view[page, slot] = rows[live].reshape(-1, *view.shape[2:])
    return cache


def _sequence(view, pages, length):
    """One sequence of one side, [length, *token axes], the dim axis whole again."""
    rows = view[pages].reshape(-1, *view.shape[2:])[:length]
    return rows.reshape(*rows.shape[:2], rows.shape[2] * rows.shape[3]) if rows.ndim == 4 else rows


def gather(cache, block_table, kv_lens, *, layout):
    def side(view):
        if view is None:
            return None
        pages = [block_table[seq, : -(-n // view.shape[1])] for seq, n in enumerate(kv_lens)]
        return np.concatenate([_sequence(view, p, n) for p, n in zip(pages, kv_lens, strict=True)])

    k, v = _views(cache, layout)
    return side(k), side(v)


def _online_softmax(q, k, v, sm_scale):
    """q [num_kv_heads, group, dim], k and v [num_keys, num_kv_heads, dim], all float32: out, lse."""
    top = np.full(q.shape[:2], -np.inf, np.float32)
    total = np.zeros(q.shape[:2], np.float32)
    out = np.zeros(q.shape, np.float32)
    for start in range(0, len(k), TILE):
        tile = slice(start, start + TILE)
        score = np.einsum("hgd,nhd->hgn", q, k[tile]) * np.float32(sm_scale)
        new_top = np.maximum(top, score.max(-1))
        keep = np.exp(top - new_top)
        p = np.exp(score - new_top[..., None])
        total = total * keep + p.sum(-1)
        out = out * keep[..., None] + np.einsum("hgn,nhd->hgd", p, v[tile])
        top = new_top
    if not len(k):
        return out, top
    return out / total[..., None], top + np.log(total)


def _merge(outs, lses):
    """float32 partials, [num_parts, ..., dim] and [num_parts, ...], weighted by exp(lse)."""
    top = lses.max(0)
    weight = np.exp(lses - np.where(np.isneginf(top), np.float32(0), top))
    total = weight.sum(0)
    safe = np.where(total > 0, total, np.float32(1))
    outs = np.where(weight[..., None] > 0, outs, np.float32(0))
    out = (weight[..., None] * outs).sum(0) / safe[..., None]
    return out, np.where(total > 0, top + np.log(safe), np.float32(-np.inf))


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits=1):
    num_seqs, num_q_heads, dim = q.shape
    k_view, v_view = _views(cache, layout)
    page_size, num_kv_heads = k_view.shape[1:3]
    out, lse = np.empty(q.shape, q.dtype), np.empty((num_seqs, num_q_heads), np.float32)
    for seq, n in enumerate(kv_lens):
        pages = block_table[seq, : -(-n // page_size)]
        k, v = (_sequence(view, pages, n).astype(np.float32) for view in (k_view, v_view))
        grouped = q[seq].astype(np.float32).reshape(num_kv_heads, -1, dim)
        ends = [int(n) * i // num_splits for i in range(num_splits + 1)]
        parts = [_online_softmax(grouped, k[a:b], v[a:b], sm_scale) for a, b in pairwise(ends)]
        merged, total = parts[0] if num_splits == 1 else _merge(*map(np.stack, zip(*parts, strict=True)))
        out[seq], lse[seq] = merged.reshape(num_q_heads, dim).astype(q.dtype), total.reshape(num_q_heads)
    return out, lse


def merge_states(outs, lses):
    out, lse = _merge(outs.astype(np.float32), lses)
    return out.astype(outs.dtype), lse
