"""How the kernels are told of a cache: pointer, strides and cuts of a view (`torch_kernels/views.py`)."""

from __future__ import annotations

import torch

from kvconform.impls.torch_kernels.views import AXES, Numbers, View
from kvconform.specs.dtypes import width


def cut(tensor: torch.Tensor, fast: str) -> int:
    """Length of a fast axis of a view; 0 where it is all there is of its pair."""
    place = AXES.index(fast)
    return tensor.shape[place] if tensor.shape[place - 1] > 1 else 0


def cuts(tensor: torch.Tensor, side: str = "") -> dict[str, int]:
    """The constants that tell a kernel how a view is cut; `side` goes before their names."""
    return {f"{side}{axis.upper()}_CUT": cut(tensor, axis) for axis in ("slot", "head", "dim")}


def unit(tensor: torch.Tensor) -> int:
    """Elements of 16 bytes where every stride but the innermost is a multiple of that many, else 1."""
    elements = 16 // tensor.itemsize
    return elements if all(step % elements == 0 for step in tensor.stride()[:-1]) else 1


def numbers(view: View) -> tuple[torch.Tensor, str]:
    """A view's tensor, and what `formats.read` has to be told of the numbers in it."""
    if "float8" in view.of:
        return view.tensor.view(torch.uint8), view.of
    return view.tensor, "" if view.tensor.dtype == getattr(torch, view.of, None) else view.of


def shared(one: Numbers) -> int:
    """How many codes along dim have one scale; 0: all that are in a head."""
    num_scales = 1 if one.scale is None else one.scale.num_values
    return one.codes.num_values // num_scales if num_scales > 1 else 0


def scale_of(beside: View | None, given: torch.Tensor | None) -> list[torch.Tensor | int | None]:
    """What a side is multiplied with: a pointer, and its strides by page, slots, slot, head, scale along dim, byte.

    beside   scales that lie in the cache
    given    float32: one for all, or one a head, a page and head, a slot and head
    """
    if beside is not None:
        page, slow_slot, slot, _, head, slow, fast = beside.tensor.stride()
        along_dim = slow if beside.tensor.shape[-2] > 1 else fast * (width(beside.of) // 8)
        return [numbers(beside)[0], page, slow_slot, slot, head, along_dim, fast]
    if given is None:
        return [None, 0, 0, 0, 0, 0, 0]
    steps = given.stride()
    page, slot = (steps[0] if given.ndim > 1 else 0), (steps[1] if given.ndim > 2 else 0)
    return [given, page, 0, slot, steps[-1] if given.shape[-1] > 1 else 0, 0, 0]


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
