"""One entry a row of the layouts: from a cache to views of K and of V, indexed [page, slot, *token axes].

An entry takes the cache, whose arrays are contiguous, and what the caller told beside it (parts.Told). Where a side has
several parts its view is {part: view}; where the row has no V it is None. A view of whole bytes writes into the cache.
"""

import numpy as np

from kvconform.impls.numpy_kernels.parts import Folded
from kvconform.impls.numpy_kernels.records import RECORDS

_NHD, _HND = (0, 1, 2, 3), (0, 2, 1, 3)  # of page, slot, head, dim among the axes of an array


def _apart(k, v=None):
    """K and V in arrays of their own; of each the axes that become page, slot, head, dim (or dim cut in two)."""
    return lambda cache, told: (cache["k"].transpose(k), cache["v"].transpose(v or k))


def _fused(side_of, axes=_NHD):
    """K and V in one array: what it takes to single out one of them, and the axes of what is left."""
    return lambda cache, told: tuple(side_of(cache["kv"], side).transpose(axes) for side in (0, 1))


def _half(kv, side):
    """K is the first half of every row, V the second."""
    dim = kv.shape[-1] // 2
    return kv[..., side * dim : (side + 1) * dim]


def _uneven(axes):
    """K is the first head_dim of every row, V what is left."""
    return lambda cache, told: tuple(np.split(cache["kv"].transpose(axes), [told["head_dim"]], -1))


def _every_other(kv, side):
    """K has the even heads, V the odd ones."""
    return kv[:, :, side::2]


def _shuffled_v(cache, told):
    v = cache["v"].transpose(0, 2, 4, 1, 3)  # page, chunk of slots, slot in it, head, dim
    return cache["k"].transpose(0, 3, 1, 2, 4), Folded(v, 2)


def _token_slots(cache, told):
    return cache["k"][:, None], cache["v"][:, None]


def _one_pool(cache, told):
    return (cache["pool"].transpose(_HND),) * 2


def _rows_of(kv):
    """[page, slot, rows of heads, lane] of a cache that packs its rows."""
    pages, slots, rows, pack, lane = kv.shape
    return kv.reshape(pages, slots, rows * pack, lane)


def _packed(cache, told):
    rows = _rows_of(cache["kv"])[:, :, : 2 * told["num_kv_heads"], : told["head_dim"]]
    return rows[:, :, 0::2], rows[:, :, 1::2]


def _packed_unaligned(cache, told):
    rows = _rows_of(cache["kv"])[..., : told["head_dim"]]
    return rows[:, :, 0::2], rows[:, :, 1::2]


def _packed_hd64(cache, told):
    rows = _rows_of(cache["kv"])[:, :, : told["num_kv_heads"]]
    return rows[..., :64], rows[..., 64:]


def _tokens_last(cache, told):
    pages, heads, tiles, pack, slots = cache["kv"].shape
    lines = cache["kv"].reshape(pages, heads, tiles * pack, slots)[:, :, : told["head_dim"]]
    return lines[:, 0::2].transpose(0, 3, 1, 2), lines[:, 1::2].transpose(0, 3, 1, 2)


def _heads_and_dim(width, told):
    """Both, from their product and one of them."""
    heads = told["num_kv_heads"] if "head_dim" not in told else width // told["head_dim"]
    return heads, width // heads


def _fractal(cache, told):
    token = _heads_and_dim(cache["kv"].shape[2] * 16, told)
    k, v = cache["kv"].transpose(0, 1, 3, 2, 4)  # of each page, slot, chunk, place in it
    return Folded(k, 1, token), Folded(v, 1, token)


def _cells(cache, told):
    k, v = cache["k"], cache["v"]
    token = _heads_and_dim(k.shape[2], told)
    return k.reshape(*k.shape[:2], *token), v.reshape(*v.shape[:2], *token)


def _cells_v_transposed(cache, told):
    return _cells({"k": cache["k"], "v": cache["v"].transpose(0, 2, 1)}, told)


PLAIN = {
    "nhd": _apart(_NHD),
    "hnd": _apart(_HND),
    "heads_first": _apart((1, 2, 0, 3)),
    "split_x": _apart((0, 3, 1, 2, 4), (0, 3, 1, 2)),
    "shuffled_v": _shuffled_v,
    "token_slots": _token_slots,
    "trtllm_blocks": _one_pool,
    "kv_first_nhd": _fused(lambda kv, side: kv[side]),
    "kv_first_hnd": _fused(lambda kv, side: kv[side], _HND),
    "page_first_nhd": _fused(lambda kv, side: kv[:, side]),
    "page_first_hnd": _fused(lambda kv, side: kv[:, side], _HND),
    "beside_nhd": _fused(_half),
    "beside_hnd": _fused(_half, _HND),
    "interleaved": _fused(_every_other),
    "packed": _packed,
    "packed_hd64": _packed_hd64,
    "packed_unaligned": _packed_unaligned,
    "tokens_last": _tokens_last,
    "fractal": _fractal,
    "bshd": _apart(_NHD),
    "bhsd": _apart(_HND),
    "cells": _cells,
    "cells_v_transposed": _cells_v_transposed,
}
"""Rows that hold one K and one V a token, of a type that attention can be computed from."""

UNEVEN = {
    "token_slots_diffkv": _token_slots,
    "beside_nhd_diffkv": _uneven(_NHD),
    "beside_hnd_diffkv": _uneven(_HND),
}
"""Rows whose V has a width of its own."""

VIEWS = PLAIN | UNEVEN | RECORDS
"""Every row that holds pages."""
