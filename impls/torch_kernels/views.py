"""Where the parts of a token lie in a cache of torch tensors: a strided view of each, for a layout an entry.

Slots, heads and dims of a view are two axes each, a slow one and a fast one: dim d is (d // n, d % n) where the fast
axis has length n. What is not cut, or into pieces of one, is the fast axis, and the slow one has length 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvconform.specs.dtypes import DTYPES, width

Cache = Mapping[str, Tensor]
Rows = Tensor | dict[str, Tensor] | None
"""K or V as operations take and return it: one part, several by name, or none."""

AXES = ("page", "slots", "slot", "heads", "head", "dims", "dim")


@dataclass(frozen=True)
class Part:
    """One part of a token: where it lies.

    name     of the part
    buffer   the array of the cache
    axes     of that array, in order; parentheses make one of several, the last of them fastest
    side     which of `kv`, where the axes have it: 0 K, 1 V
    lanes    where the part begins and ends in the last axis, if that holds several; a name is a size that is told
    of       the type of what lies there, where the cache's bytes hold several; `dtype`: the one that is told
    cut      what makes an array of these axes of a cache, and of what is told, where it has none
    """

    name: str
    buffer: str
    axes: str
    side: int = 0
    lanes: tuple[int | str | None, int | str | None] | None = None
    of: str = ""
    cut: Callable[[Cache, Mapping[str, Any]], Tensor] | None = None


@dataclass(frozen=True)
class View:
    """One part of all tokens of a cache.

    part                             what it is a view of
    tensor                           [page, slots, slot, heads, head, dims, dim], in the cache's own memory
    of                               name of its values' type: the tensor's, unless that is bytes and they are not
    page_size, num_heads, head_dim   without what the layout pads them with; head_dim in elements of the tensor
    """

    part: Part
    tensor: Tensor
    of: str
    page_size: int
    num_heads: int
    head_dim: int

    @property
    def num_slots(self) -> int:
        """Of all pages."""
        return self.tensor.shape[0] * self.page_size

    @property
    def num_values(self) -> int:
        """Of a head."""
        return 8 * self.head_dim * self.tensor.itemsize // width(self.of)

    def by_heads(self, rows: Tensor) -> Tensor:
        """Tokens of the part as [num_tokens, num_heads, head_dim], one head where it has none."""
        return rows if "head" in self.part.axes else rows.unsqueeze(1)

    def as_told(self, rows: Tensor) -> Tensor:
        """The inverse of by_heads."""
        return rows if "head" in self.part.axes else rows.squeeze(1)


Sides = tuple[tuple[Part, ...], tuple[Part, ...]]


def _apart(k: str, v: str = "") -> Sides:
    return (Part("k", "k", k),), (Part("v", "v", v or k),)


def _fused(axes: str, buffer: str = "kv") -> Sides:
    return (Part("k", buffer, axes, 0),), (Part("v", buffer, axes, 1),)


def _alone(*parts: Part) -> Sides:
    return parts, ()


_LATENT, _ROPE = (None, -64), (-64, None)


def _uneven(axes: str) -> Sides:
    """K and, of a width of its own, V behind it."""
    return (Part("k", "kv", axes, lanes=(None, "head_dim")),), (Part("v", "kv", axes, lanes=("head_dim", None)),)


ROWS: dict[str, Sides] = {
    "nhd": _apart("page slot head dim"),
    "hnd": _apart("page head slot dim"),
    "heads_first": _apart("head page slot dim"),
    "split_x": _apart("page head dims slot dim", "page head dim slot"),
    "shuffled_v": _apart("page head dims slot dim", "page head slots dim slot"),
    "token_slots": _apart("page head dim"),
    "token_slots_diffkv": _apart("page head dim"),
    "trtllm_blocks": _fused("page head slot dim", "pool"),
    "kv_first_nhd": _fused("kv page slot head dim"),
    "kv_first_hnd": _fused("kv page head slot dim"),
    "page_first_nhd": _fused("page kv slot head dim"),
    "page_first_hnd": _fused("page kv head slot dim"),
    "beside_nhd": _fused("page slot head (kv dim)"),
    "beside_hnd": _fused("page head slot (kv dim)"),
    "beside_nhd_diffkv": _uneven("page slot head dim"),
    "beside_hnd_diffkv": _uneven("page head slot dim"),
    "interleaved": _fused("page slot (head kv) dim"),
    "packed": _fused("page slot (heads kv) (head kv) dim"),  # all of kv is fast, unless 4 bytes hold one value
    "packed_hd64": _fused("page slot heads head (kv dim)"),
    "packed_unaligned": _fused("page slot (heads kv) (head kv) dim"),
    "tokens_last": _fused("page (head kv) dims dim slot"),
    "bshd": _apart("page slot head dim"),
    "bhsd": _apart("page head slot dim"),
    "cells": _apart("page slot (head dim)"),
    "cells_v_transposed": _apart("page slot (head dim)", "page (head dim) slot"),
    "mla": _alone(
        Part("ckv", "kv_cache", "page slot dim", lanes=_LATENT),
        Part("kpe", "kv_cache", "page slot dim", lanes=_ROPE),
    ),
    "mla_aligned": _alone(
        Part("ckv", "kv_cache", "page slots slot dim"),
        Part("kpe", "kv_cache", "page slots slot dim", lanes=(-128, -64)),
    ),
    "mla_packed": _alone(Part("ckv", "ckv", "page slots slot dim")),
    "mla_tokens_last": _alone(Part("ckv", "ckv", "page dim slot")),
    "code_rows": _alone(Part("codes", "codes", "page slot dim")),
    "code_columns": _alone(Part("codes", "codes", "page dim slot")),
    "code_heads": _alone(Part("codes", "codes", "page head slot dim")),
}
_FP8 = "float8_e4m3fn"
_IN_HEAD = "page slot head kv dim"


def _token_head_scales(side: int) -> tuple[Part, ...]:
    """K or V of a head, and behind it its scale."""
    name = "kv"[side]
    return (
        Part(name, "kv_cache", _IN_HEAD, side, (None, -4), "dtype"),
        Part(f"{name}_scale", "kv_cache", _IN_HEAD, side, (-4, None), "float32"),
    )


def _q8_0(name: str) -> tuple[Part, ...]:
    """K or V in blocks of 32, each behind its scale."""
    return (
        Part(name, name, "page slot head dims dim", lanes=(2, None), of="int8"),
        Part(f"{name}_scale", name, "page slot head dims dim", lanes=(None, 2), of="float16"),
    )


def _behind(place: int) -> Callable[[Cache, Mapping[str, Any]], Tensor]:
    """Of a page that holds the rows of all slots, and then their scales: the rows, or the scales."""

    def cut(cache: Cache, told: Mapping[str, Any]) -> Tensor:
        sizes = (448 + 2 * 64, 8)
        slots = cache["kv_cache"].shape[1] // sum(sizes)  # pages are padded by less than one
        piece = cache["kv_cache"].narrow(1, slots * sum(sizes[:place]), slots * sizes[place])
        return piece.unflatten(1, (slots, -1))

    return cut


def _nvfp4(name: str) -> tuple[Part, ...]:
    """Codes of K or V, and a scale of each 16 of them."""
    axes, shared = "page head slot dim", f"{name}_scale"
    return Part(name, name, axes, of="float4_e2m1fn"), Part(shared, shared, axes, of=_FP8)


def _fp4_slots(name: str) -> tuple[Part, ...]:
    """The same with scales that are powers of two, those of all heads in one axis."""

    def cut(cache: Cache, told: Mapping[str, Any]) -> Tensor:
        return cache[shared].unflatten(1, (cache[name].shape[1], -1))

    shared = f"{name}_scale"
    return Part(name, name, "page head dim", of="float4_e2m1fn"), Part(
        shared, shared, "page head dim", of="float8_e8m0fnu", cut=cut
    )


def _swizzled(name: str, place: int, of: str, axes: str = "page head slot dim") -> Part:
    """One of the four arrays that lie behind each other in a page: codes of K, their scales, and the same of V."""

    def cut(cache: Cache, told: Mapping[str, Any]) -> Tensor:
        heads, slots, dim = (told[size] for size in ("num_heads", "page_size", "head_dim"))
        sizes = (heads * slots * dim // 2, heads * slots * dim // 16) * 2
        piece = cache["kv_cache"].narrow(1, sum(sizes[:place]), sizes[place])
        return piece.unflatten(1, (heads, slots // 4, -1, 4) if "slots" in axes else (heads, slots, -1))

    return Part(name, "kv_cache", axes, of=of, cut=cut)


RECORDS: dict[str, Sides] = {
    "cells_q8_0": (_q8_0("k"), _q8_0("v")),
    "mla_656": _alone(
        Part("nope", "kv_cache", "page slot dim", lanes=(None, 512), of=_FP8),
        Part("nope_scale", "kv_cache", "page slot dim", lanes=(512, 528), of="float32"),
        Part("rope", "kv_cache", "page slot dim", lanes=(528, None), of="bfloat16"),
    ),
    "mla_scales_behind": _alone(
        Part("nope", "kv_cache", "page slot dim", lanes=(None, 448), of=_FP8, cut=_behind(0)),
        Part("rope", "kv_cache", "page slot dim", lanes=(448, None), of="bfloat16", cut=_behind(0)),
        Part("nope_scale", "kv_cache", "page slot dim", lanes=(None, 7), of="float8_e8m0fnu", cut=_behind(1)),
    ),
    "token_head_scales": (_token_head_scales(0), _token_head_scales(1)),
    "nvfp4": (_nvfp4("k"), _nvfp4("v")),
    "nvfp4_swizzled": (
        (_swizzled("k", 0, "float4_e2m1fn"), _swizzled("k_scale", 1, _FP8)),
        (_swizzled("v", 2, "float4_e2m1fn"), _swizzled("v_scale", 3, _FP8, "page head slots dim slot")),
    ),
    "fp4_slots": (_fp4_slots("k"), _fp4_slots("v")),
}
"""Rows of bytes that are of several types, or of two codes each, for attention alone."""

LATENTS = {"mla", "mla_aligned", "mla_656", "mla_scales_behind"}
"""Rows whose first part is V of attention, and all of them K."""

ATTENDED = {name for name, (_, v) in ROWS.items() if v} | LATENTS | set(RECORDS)
"""Rows whose tokens have a K and a V."""


TOLD = ("num_kv_heads", "head_dim", "head_dim_v", "page_size", "dtype")
"""What callers may say of a cache beside its arrays."""


def sides(
    cache: Cache,
    layout: str,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    head_dim_v: int | None = None,
    page_size: int | None = None,
    dtype: str | None = None,
) -> tuple[list[View], list[View]]:
    """Views of the parts of K, and of those of V.

    num_kv_heads, head_dim, head_dim_v, page_size   where a layout pads or joins them, so that shapes do not tell
    dtype                                           of values, where the cache is bytes
    """
    told = {"page_size": page_size, "num_heads": num_kv_heads, "head_dim": head_dim, "head_dim_v": head_dim_v}
    k, v = ([_view(part, cache, told, dtype) for part in parts] for parts in (ROWS | RECORDS)[layout])
    return k, v


@dataclass(frozen=True)
class Numbers:
    """Codes, and what each of them, or so many neighbours along dim, are multiplied with."""

    codes: View
    scale: View | None


def attended(cache: Cache, layout: str, **told: Any) -> tuple[list[Numbers], list[Numbers]]:
    """What lies side by side along dim in K, and in V; of the same memory where K begins with V."""
    found = []
    for side in sides(cache, layout, **told):
        scales = {view.part.name: view for view in side if view.part.name.endswith("_scale")}
        found.append([Numbers(v, scales.get(f"{v.part.name}_scale")) for v in side if v.part.name not in scales])
    k, v = found
    return k, v or k[:1]


def _view(part: Part, cache: Cache, told: Mapping[str, int | None], dtype: str | None) -> View:
    tensor = part.cut(cache, told) if part.cut else cache[part.buffer]
    if part.lanes:
        start, end = (told[at] if isinstance(at, str) else at for at in part.lanes)
        tensor = tensor[..., start:end]
    if part.lanes or part.of:
        told = {**told, "head_dim": None}
    of = (dtype if part.of == "dtype" else part.of) or str(tensor.dtype).removeprefix("torch.")
    if of in DTYPES and width(of) == 8 * tensor.itemsize:
        tensor = tensor.view(getattr(torch, of))
    tensor = _spread(tensor, part.axes, part.side, told["head_dim"])
    _, slots, slot, heads, head, dims, dim = tensor.shape
    padded = {"page_size": slots * slot, "num_heads": heads * head, "head_dim": dims * dim}
    return View(part, tensor, of, **{name: told[name] or size for name, size in padded.items()})


def _spread(tensor: Tensor, axes: str, side: int, head_dim: int | None) -> Tensor:
    """The tensor with all of AXES, and of `kv` one side alone."""
    groups, num_sides = [group.strip("()").split() for group in re.findall(r"\([^)]*\)|\w+", axes)], 2
    for place, group in reversed(list(enumerate(groups))):
        if len(group) > 1:
            sizes = {"dim": head_dim or -1}
            if "kv" in group:  # cut in two, the fast part takes as much of it as it has room for
                sizes["kv"] = math.gcd(num_sides, tensor.shape[place])
                num_sides //= sizes["kv"]
            tensor = tensor.unflatten(place, [sizes.get(axis, -1) for axis in group])
    names = [axis for group in groups for axis in group]
    while "kv" in names:
        place = names.index("kv")
        tensor = tensor.select(place, side % tensor.shape[place])
        names.pop(place)
    tensor = tensor.permute([names.index(axis) for axis in AXES if axis in names])
    for place, axis in enumerate(AXES):
        tensor = tensor if axis in names else tensor.unsqueeze(place)
    for fast in range(2, len(AXES), 2):
        tensor = tensor.transpose(fast - 1, fast) if tensor.shape[fast] == 1 else tensor
    return tensor


def page_axis(layout: str) -> int:
    """Which axis of every array of a cache counts its pages."""
    return {"heads_first": 1, "kv_first_nhd": 1, "kv_first_hnd": 1, "fractal": 1}.get(layout, 0)


def given(side: list[View], rows: Rows) -> Iterator[tuple[View, Tensor]]:
    """Each view of a side with its tokens, [num_tokens, num_heads, head_dim]."""
    for view in side:
        one = rows[view.part.name] if isinstance(rows, dict) else rows
        yield view, view.by_heads(one)


def taken(side: list[View], rows: list[Tensor]) -> Rows:
    """The inverse of given: what an operation returns for a side."""
    named = {view.part.name: view.as_told(one) for view, one in zip(side, rows, strict=True)}
    return named if len(named) > 1 else next(iter(named.values()), None)


def of_side(indices: Any, side: int, num_axes: int) -> Any:
    """A page table or slot mapping of K or of V: the same, unless one axis more holds both."""
    return indices.select(-2, side) if isinstance(indices, Tensor) and indices.ndim > num_axes else indices
