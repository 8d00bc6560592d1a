"""How the kernels find K and V in a cache of any layout: of each a line, and the strides that follow from it.

A line says what each dimension of an array counts. A word that comes twice is an axis cut in two, and `head.kv` is two
axes joined; the slow one always comes first. An axis that no dimension counts has one index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import arguments
from kvconform.impls.cuda_kernels.runtime import DeviceArray
from kvconform.specs.dtypes import DTYPES

Cache = Mapping[str, DeviceArray]
Lines = tuple[tuple[str, str], ...]


def _apart(k: str, v: str = "") -> Lines:
    """K and V in arrays of their own."""
    return ("k", k), ("v", v or k)


def _fused(line: str, name: str = "kv") -> Lines:
    """K and V in one array."""
    return ((name, line),) * 2


PLAIN: dict[str, Lines] = {
    "nhd": _apart("page slot head dim"),
    "hnd": _apart("page head slot dim"),
    "heads_first": _apart("head page slot dim"),
    "split_x": _apart("page head dim slot dim", "page head dim slot"),
    "shuffled_v": _apart("page head dim slot dim", "page head slot dim slot"),
    "token_slots": _apart("page head dim"),
    "trtllm_blocks": _fused("page head slot dim", "pool"),
    "kv_first_nhd": _fused("kv page slot head dim"),
    "kv_first_hnd": _fused("kv page head slot dim"),
    "page_first_nhd": _fused("page kv slot head dim"),
    "page_first_hnd": _fused("page kv head slot dim"),
    "beside_nhd": _fused("page slot head kv.dim"),
    "beside_hnd": _fused("page head slot kv.dim"),
    "interleaved": _fused("page slot head.kv dim"),
    "packed": _fused("page slot head.kv head.kv dim"),
    "packed_hd64": _fused("page slot head head kv.dim"),
    "packed_unaligned": _fused("page slot head.kv head.kv dim"),
    "tokens_last": _fused("page head.kv dim dim slot"),
    "fractal": _fused("kv page head.dim slot head.dim"),
    "bshd": _apart("page slot head dim"),
    "bhsd": _apart("page head slot dim"),
    "cells": _apart("page slot head.dim"),
    "cells_v_transposed": _apart("page slot head.dim", "page head.dim slot"),
}
"""Layout -> the array of K and its line, then of V."""

ALONE: dict[str, Lines] = {
    "code_rows": (("codes", "page slot dim"),),
    "code_columns": (("codes", "page dim slot"),),
    "code_heads": (("codes", "page head slot dim"),),
    "mla_packed": (("ckv", "page slot slot dim"),),
    "mla_tokens_last": (("ckv", "page dim slot"),),
}
"""The same of layouts that store one array a token: codes, or K and V in one."""

LINES = PLAIN | ALONE

UNEVEN: dict[str, Lines] = {
    "token_slots_diffkv": _apart("page head dim"),
    "beside_nhd_diffkv": _fused("page slot head dim"),
    "beside_hnd_diffkv": _fused("page head slot dim"),
    "mla": _fused("page slot dim", "kv_cache"),
    "token_head_scales": _fused("page slot head kv dim", "kv_cache"),
}
"""The same of layouts for attention alone: of most a line says where a piece of every row lies (PIECES)."""

ROPE, SCALE = 64, 4
"""Elements of an mla row that are not V; bytes of a float32."""

Pieces = tuple[slice, slice]


def _one_behind_the_other(head_dim: int | None) -> Pieces:
    return slice(head_dim), slice(head_dim, None)


def _before_a_scale(head_dim: int | None) -> Pieces:
    return slice(-SCALE), slice(-SCALE)


def _v_in_k(head_dim: int | None) -> Pieces:
    return slice(None), slice(-ROPE)


PIECES: dict[str, Callable[[int | None], Pieces]] = {
    "beside_nhd_diffkv": _one_behind_the_other,
    "beside_hnd_diffkv": _one_behind_the_other,
    "mla": _v_in_k,
    "token_head_scales": _before_a_scale,
}
"""Layout -> by the told head_dim, which elements of a row are K and which V; no layout that is not here: all."""

JOINED = "head.dim"
"""Heads and dims as one axis, which only the caller can tell apart."""

Digits = list[tuple[int, int]]
"""(size, stride) of the dimensions that count an axis together, the slowest first."""


@dataclass(frozen=True)
class Pages:
    """How the kernels find K and V in a cache, and its sizes.

    k_scale, v_scale       bytes [page, slot, head, SCALE] that lie in it beside K and V; null: none do
    head_dim, head_dim_v   of K, of V
    token                  shape of one token of K, or of V where they are alike
    """

    k: arguments.Paged
    v: arguments.Paged
    k_scale: arguments.Tensor
    v_scale: arguments.Tensor
    dtype: np.dtype[Any]
    num_pages: int
    page_size: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    token: tuple[int, ...]

    @staticmethod
    def of(
        cache: Cache,
        layout: str,
        *,
        num_kv_heads: int | None,
        head_dim: int | None,
        page_size: int | None,
        dtype: str | None = None,
    ) -> Pages:
        """Sizes and strides of a cache's arrays, by the lines of its layout.

        num_kv_heads, head_dim, page_size, dtype   None where the arrays tell

        Raises ValueError where an axis is in more pieces than two.
        """
        lines = (LINES | UNEVEN)[layout]
        whole = [cache[name] for name, _ in lines]
        pieces = PIECES[layout](head_dim) if layout in PIECES else (slice(None),) * 2
        arrays = [_of_rows(array, piece) for array, piece in zip(whole, pieces, strict=False)]
        sides = [_digits(array, line) for array, (_, line) in zip(arrays, lines, strict=True)]
        size = {axis: math.prod(count for count, _ in digits) for axis, digits in sides[0].items()}
        heads, dim = num_kv_heads or size.get("head", 1), head_dim or size["dim"]
        widths = [dim] * 2 if layout in LINES else [math.prod(size for size, _ in side["dim"]) for side in sides]
        k_scale, v_scale = (_scale_behind(whole[0], side, layout) for side in (0, 1))
        both = enumerate(zip(arrays, sides, strict=True))
        k, *v = (_paged(array, digits, side, dim) for side, (array, digits) in both)
        return Pages(
            k=k,
            v=v[0] if v else arguments.Paged(),
            k_scale=k_scale,
            v_scale=v_scale,
            dtype=DTYPES[dtype] if dtype else arrays[0].dtype,
            num_pages=size["page"],
            page_size=page_size or size.get("slot", 1),
            num_kv_heads=heads,
            head_dim=widths[0],
            head_dim_v=widths[1],
            token=(heads, dim) if {"head", JOINED} & set(size) else (dim,),
        )


def page_axis(layout: str, name: str) -> int:
    """Which dimension of an array counts pages: the first one, where no line says otherwise."""
    return dict(LINES.get(layout, ())).get(name, "page").split().index("page")


def _of_rows(array: DeviceArray, piece: slice) -> DeviceArray:
    """A piece of the last axis."""
    return array[(*(slice(None),) * (len(array.shape) - 1), piece)]


def _scale_behind(array: DeviceArray, side: int, layout: str) -> arguments.Tensor:
    """The scales behind K, or V, of [page, slot, head, kv, dim]."""
    if PIECES.get(layout) is not _before_a_scale:
        return arguments.Tensor()
    scale = _of_rows(array, slice(-SCALE, None))
    page, slot, head, kv, byte = scale.strides
    return arguments.Tensor(scale.address + side * kv, (page, slot, head, byte))


def _digits(array: DeviceArray, line: str) -> dict[str, Digits]:
    """Axis -> its digits; an axis that is joined with K and V is freed of them."""
    found: dict[str, Digits] = {}
    for word, size, stride in zip(line.split(), array.shape, array.strides, strict=True):
        found.setdefault(word, []).append((size, stride))
    for word in [word for word in found if "kv." in word or ".kv" in word]:
        digits, (slow, fast) = found.pop(word), word.split(".")
        found[slow], found[fast] = _split(digits, 2 if fast == "kv" else math.prod(size for size, _ in digits) // 2)
    return found


def _split(digits: Digits, size: int) -> tuple[Digits, Digits]:
    """(slow, fast): the fastest `size` indices as an axis of their own. Raises ValueError where they are no box."""
    slow, fast, left = list(digits), Digits(), size
    while left > 1:
        count, stride = slow.pop()
        if max(count, left) % min(count, left):
            shown = " * ".join(str(count) for count, _ in digits)
            raise ValueError(f"{size} neighbours of {shown} do not lie in whole pieces")
        taken = min(count, left)
        fast.insert(0, (taken, stride))
        if count > taken:
            slow.append((count // taken, taken * stride))
        left //= taken
    return slow, fast


def _paged(array: DeviceArray, digits: Mapping[str, Digits], side: int, head_dim: int) -> arguments.Paged:
    """Where one side, 0 K or 1 V, begins in an array, and its strides."""
    ((_, page),) = digits["page"]
    behind = side * sum(stride for size, stride in digits.get("kv", ()) if size > 1)
    return arguments.Paged(
        data=array.address + behind * array.dtype.itemsize,
        page=page,
        slot=_axis(digits.get("slot", [])),
        head=_axis(digits.get("head", [])),
        dim=_axis(digits.get(JOINED) or digits["dim"]),
        span=head_dim if JOINED in digits else 0,
    )


def _axis(digits: Digits) -> arguments.Axis:
    """Raises ValueError where there are more digits than a kernel follows."""
    parts = [(size, stride) for size, stride in digits if size > 1]
    if len(parts) > 2:
        raise ValueError(f"an axis in pieces of {' * '.join(str(size) for size, _ in parts)}, and a kernel follows two")
    (_, outer), (width, inner) = [(1, 0), (1, 0), *parts][-2:]
    return arguments.Axis(outer, inner, width)
