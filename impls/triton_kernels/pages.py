"""How the kernels find K and V in a cache of any layout: one view [page, slot, head, chunk, inner] a side.

Shape and strides of the view are all that a kernel is told of a layout. A dim that is not cut is one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

Cache = Mapping[str, torch.Tensor]

AXES = ("page", "slot", "head", "chunk", "inner")

_SLOTS_FIRST = (("k", "page slot head inner"), ("v", "page slot head inner"))
_HEADS_FIRST = (("k", "page head slot inner"), ("v", "page head slot inner"))
PAGED = {  # the field of K and its axes, then of V; a `row` is K0 V0 K1 V1 ...
    "nhd": _SLOTS_FIRST,
    "hnd": _HEADS_FIRST,
    "heads_first": (("k", "head page slot inner"), ("v", "head page slot inner")),
    "interleaved": (("kv", "page slot row inner"), ("kv", "page slot row inner")),
    "split_x": (("k", "page head chunk slot inner"), ("v", "page head inner slot")),
    "bshd": _SLOTS_FIRST,
    "bhsd": _HEADS_FIRST,
}
CODES = {  # one tensor, no heads
    "code_rows": (("codes", "page slot inner"),),
    "code_columns": (("codes", "page inner slot"),),
}


def sides(cache: Cache, layout: str) -> list[torch.Tensor]:
    """Views [page, slot, head, chunk, inner] of K, and of V where the layout has values."""
    return [_side(cache[field], axes.split(), place) for place, (field, axes) in enumerate((PAGED | CODES)[layout])]


def _side(tensor: torch.Tensor, axes: list[str], first_row: int) -> torch.Tensor:
    if "row" in axes:
        place = axes.index("row")
        tensor = tensor[(slice(None),) * place + (slice(first_row, None, 2),)]
        axes = [*axes[:place], "head", *axes[place + 1 :]]
    view = tensor.permute([axes.index(axis) for axis in AXES if axis in axes])
    for place, axis in enumerate(AXES):
        if axis not in axes:
            view = view.unsqueeze(place)
    return view


def chunk_width(side: torch.Tensor) -> int:
    """Inner elements of a chunk; 0 where dims are not cut."""
    return side.shape[4] if side.shape[3] > 1 else 0


def unit(side: torch.Tensor) -> int:
    """Elements of 16 bytes where every stride but the innermost is a multiple of that many, else 1."""
    elements = 16 // side.itemsize
    return elements if all(step % elements == 0 for step in side.stride()[:-1]) else 1


def strided(*tensors: torch.Tensor) -> list[torch.Tensor | int]:
    """Tensors as kernels take them: of each its pointer, then its strides in elements."""
    return [part for tensor in tensors for part in (tensor, *tensor.stride())]


_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


def words(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """The same memory as integers, the widest that all of these tensors are made of: what moves bytes asks no more."""
    width = next(width for width in _INTEGERS if all(_is_made_of(tensor, width) for tensor in tensors))
    return [tensor.view(_INTEGERS[width]) for tensor in tensors]


def _is_made_of(tensor: torch.Tensor, width: int) -> bool:
    """Whether the last axis falls into aligned words of so many bytes."""
    if width == tensor.itemsize:
        return True
    places = (tensor.shape[-1], tensor.storage_offset(), *tensor.stride()[:-1])
    elements = max(1, width // tensor.itemsize)
    return (
        width > tensor.itemsize
        and tensor.stride(-1) == 1
        and tensor.data_ptr() % width == 0
        and all(place % elements == 0 for place in places)
    )
