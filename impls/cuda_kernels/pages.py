"""How the kernels find K and V in a cache of any layout: of each a line, and the strides that follow from it.

A line says what each dimension of an array counts. A word that comes twice is an axis cut in two, and `head.kv` is two
axes joined; the slow one always comes first. An axis that no dimension counts has one index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import arguments
from kvconform.impls.cuda_kernels.runtime import DeviceArray

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

JOINED = "head.dim"
"""Heads and dims as one axis, which only the caller can tell apart."""

Digits = list[tuple[int, int]]
"""(size, stride) of the dimensions that count an axis together, the slowest first."""


@dataclass(frozen=True)
class Pages:
    """How the kernels find K and V in a cache, and its sizes.

    token   shape of one token of K, or of V
    """

    k: arguments.Paged
    v: arguments.Paged
    dtype: np.dtype[Any]
    num_pages: int
    page_size: int
    num_kv_heads: int
    head_dim: int
    token: tuple[int, ...]

    @staticmethod
    def of(
        cache: Cache, layout: str, *, num_kv_heads: int | None, head_dim: int | None, page_size: int | None
    ) -> Pages:
        """Sizes and strides of a cache's arrays, by the lines of its layout.

        num_kv_heads, head_dim, page_size   None where the arrays tell

        Raises ValueError where an axis is in more pieces than two.
        """
        lines = LINES[layout]
        arrays = [cache[name] for name, _ in lines]
        sides = [_digits(array, line) for array, (_, line) in zip(arrays, lines, strict=True)]
        size = {axis: math.prod(count for count, _ in digits) for axis, digits in sides[0].items()}
        heads, dim = num_kv_heads or size.get("head", 1), head_dim or size["dim"]
        both = enumerate(zip(arrays, sides, strict=True))
        k, *v = (_paged(array, digits, side, dim) for side, (array, digits) in both)
        return Pages(
            k=k,
            v=v[0] if v else arguments.Paged(),
            dtype=arrays[0].dtype,
            num_pages=size["page"],
            page_size=page_size or size.get("slot", 1),
            num_kv_heads=heads,
            head_dim=dim,
            token=(heads, dim) if {"head", JOINED} & set(size) else (dim,),
        )


def page_axis(layout: str, name: str) -> int:
    """Which dimension of an array counts pages: the first one, where no line says otherwise."""
    return dict(LINES.get(layout, ())).get(name, "page").split().index("page")


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
