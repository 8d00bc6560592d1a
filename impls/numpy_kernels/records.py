"""Rows that hold several types, values of less than a byte, latents or codes; entries as in views.py."""

import ml_dtypes
import numpy as np

from kvconform.impls.numpy_kernels.codes import Codes
from kvconform.impls.numpy_kernels.parts import Folded, segments, shared

_BFLOAT16, _FLOAT8 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)
_BYTES = {"int8": np.dtype(np.int8), "float8_e4m3fn": _FLOAT8}
_GROUP = 32  # slots, or elements of dim, that share a scale in KIVI


def _as_stored(codes):
    return codes


def _swapped(array):
    """[page, head, slot, ...] as [page, slot, head, ...]."""
    return array.swapaxes(1, 2)


# --- latents


def _mla(cache, told):
    rows = cache["kv_cache"]
    return {"ckv": rows[..., :-64], "kpe": rows[..., -64:]}, None


def _slots_of(array, told):
    """[page, slot, lane] of a cache that packs its slots, those that pad a page left out."""
    pages, rows, pack, lane = array.shape
    return array.reshape(pages, rows * pack, lane)[:, : told["page_size"]]


def _mla_aligned(cache, told):
    rows = _slots_of(cache["kv_cache"], told)
    return {"ckv": rows[..., : told["head_dim"]], "kpe": rows[..., -128:-64]}, None


def _mla_packed(cache, told):
    return _slots_of(cache["ckv"], told)[..., : told["head_dim"]], None


def _mla_tokens_last(cache, told):
    return cache["ckv"].transpose(0, 2, 1), None


def _mla_656(cache, told):
    nope, scale, rope = segments(cache["kv_cache"], 512, 4 * 4, 64 * 2)
    return {"nope": nope.view(_FLOAT8), "nope_scale": scale.view(np.float32), "rope": rope.view(_BFLOAT16)}, None


def _mla_scales_behind(cache, told):
    pages, size = cache["kv_cache"].shape
    row, scales = 448 + 2 * 64, 8  # bytes of a token; of its scales the last one is not used
    slots = size // (row + scales)  # the page is padded by less than a row
    rows, behind = segments(cache["kv_cache"], slots * row, slots * scales)
    nope, rope = segments(rows.reshape(pages, slots, row), 448, 2 * 64)
    scale = behind.reshape(pages, slots, scales)[..., :7]
    return {"nope": nope.view(_FLOAT8), "nope_scale": scale, "rope": rope.view(_BFLOAT16)}, None


def _indexer_k(cache, told):
    pages, size = cache["kv_cache"].shape
    dim = told["head_dim"]
    slots = size // (dim + 4 * dim // 128)
    rows, scales = segments(cache["kv_cache"], slots * dim, slots * 4 * dim // 128)
    k = rows.view(_FLOAT8).reshape(pages, slots, dim)
    return {"k": k, "k_scale": scales.view(np.float32).reshape(pages, slots, dim // 128)}, None


# --- scales beside the values


def _cells_q8_0(cache, told):
    def side(name):
        scale, codes = segments(cache[name], 2, 32)
        return {f"{name}_scale": scale.view(np.float16)[..., 0], name: codes.view(np.int8)}

    return side("k"), side("v")


def _token_head_scales(cache, told):
    rows = cache["kv_cache"]
    dtype = told["dtype"] if rows.dtype == np.uint8 else rows.dtype.name

    def side(name, row):
        values, scale = segments(row, row.shape[-1] - 4, 4)
        return {
            name: Codes(values, 4, _as_stored) if dtype == "uint4" else values.view(_BYTES[dtype]),
            f"{name}_scale": scale.view(np.float32)[..., 0],
        }

    return side("k", rows[..., 0, :]), side("v", rows[..., 1, :])


def _nvfp4(cache, told):
    def side(name):
        scale = _swapped(cache[f"{name}_scale"])
        return {name: Codes(cache[name], 4, _swapped), f"{name}_scale": scale}

    return side("k"), side("v")


def _nvfp4_swizzled(cache, told):
    pages, size = cache["kv_cache"].shape
    heads, codes, scales = told["num_kv_heads"], told["head_dim"] // 2, told["head_dim"] // 16
    slots = size // (2 * heads * (codes + scales))
    sizes = (heads * slots * codes, heads * slots * scales)
    k, k_scale, v, v_scale = segments(cache["kv_cache"], *sizes, *sizes)
    quads = v_scale.reshape(pages, heads, slots // 4, 4, scales // 4, 4)  # quad, part and rest of dim, slot in its quad

    def of(array, dim):
        return array.reshape(pages, heads, slots, dim)

    return (
        {"k": Codes(of(k, codes), 4, _swapped), "k_scale": _swapped(of(k_scale, scales)).view(_FLOAT8)},
        {"v": Codes(of(v, codes), 4, _swapped), "v_scale": Folded(quads.transpose(0, 2, 5, 1, 3, 4).view(_FLOAT8), 2)},
    )


def _fp4_slots(cache, told):
    def side(name):
        pages, heads, _ = cache[name].shape
        scale = cache[f"{name}_scale"].reshape(pages, 1, heads, -1)
        return {name: Codes(cache[name], 4, lambda codes: codes[:, None]), f"{name}_scale": scale}

    return side("k"), side("v")


# --- codes in words, scales apart


def _grouped_slots(scale):
    """[page, group of slots, head, dim] to [page, slot, head, dim]."""
    return Folded(shared(scale, 1, _GROUP), 2)


def _kivi_v(cache):
    """V of both layouts: codes and scales along dim."""
    bits = cache["v"].shape[3] // cache["v_scale"].shape[3]  # words of 32 bits for each 32 codes
    return {"v": Codes(cache["v"], bits, _swapped)} | {name: _swapped(cache[name]) for name in ("v_scale", "v_zero")}


def _kivi(cache, told):
    last = (0, 3, 1, 2)  # page, slot, head, dim among page, head, dim, slot
    bits = cache["k"].shape[3] // cache["k_scale"].shape[3]
    k = {"k": Codes(cache["k"], bits, lambda codes: codes.transpose(last))}
    k |= {name: _grouped_slots(cache[name].transpose(last)) for name in ("k_scale", "k_zero")}
    return k, _kivi_v(cache)


def _kivi_torch(cache, told):
    _, heads, lines, dim = cache["k"].shape
    bits = lines // cache["k_scale"].shape[2]

    def see(codes):  # page, head, line, dim, slot in its line
        cut = codes.reshape(len(codes), heads, lines, dim, 32 // bits)
        return Folded(cut.transpose(0, 2, 4, 1, 3), 2)

    k = {"k": Codes(cache["k"], bits, see)}
    k |= {name: _grouped_slots(_swapped(cache[name])) for name in ("k_scale", "k_zero")}
    return k, _kivi_v(cache)


def _kvquant(cache, told):
    slots = cache["k"].shape[3]

    def see(codes):  # page, head, line of eight, slot, place in its line
        return codes.reshape(*codes.shape[:3], slots, 8).transpose(0, 3, 1, 2, 4)

    return Codes(cache["k"], 4, see), Codes(cache["v"], 4, see)


# --- codes of a byte


def _code_rows(cache, told):
    return cache["codes"], None


def _code_columns(cache, told):
    return cache["codes"].transpose(0, 2, 1), None


def _code_heads(cache, told):
    return _swapped(cache["codes"]), None


RECORDS = {
    "cells_q8_0": _cells_q8_0,
    "mla": _mla,
    "mla_aligned": _mla_aligned,
    "mla_packed": _mla_packed,
    "mla_tokens_last": _mla_tokens_last,
    "mla_656": _mla_656,
    "mla_scales_behind": _mla_scales_behind,
    "indexer_k": _indexer_k,
    "token_head_scales": _token_head_scales,
    "nvfp4": _nvfp4,
    "nvfp4_swizzled": _nvfp4_swizzled,
    "fp4_slots": _fp4_slots,
    "kivi": _kivi,
    "kivi_torch": _kivi_torch,
    "kvquant": _kvquant,
    "code_rows": _code_rows,
    "code_columns": _code_columns,
    "code_heads": _code_heads,
}
"""Rows whose token is more, or less, than one K and one V of a type that attention can be computed from."""
