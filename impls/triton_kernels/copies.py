"""copy_pages: whole pages, by way of memory of their own, so that every source is read before a target is written."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from kvconform.impls.triton_kernels import COMPILED, launch
from kvconform.impls.triton_kernels.blocks import block
from kvconform.impls.triton_kernels.pages import strided, words

_RANK = 5
"""Axes of the arrays that the kernel takes, the page included."""

ELEMENTS = 1024 if COMPILED else 4096
"""Of a page that one program copies; the interpreter pays by the program, whatever its size."""


@launch.kernel("from_3", "to_3", "size_3")
def _copy(
    source, from_page, from_0, from_1, from_2, from_3, target, to_page, to_0, to_1, to_2, to_3,
    size_1, size_2, size_3, num_elements, sources, source_step, targets, target_step,
    ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Page sources[i] of one array becomes page targets[i] of another; a program copies a block of one page."""
    pair = tl.program_id(0).to(tl.int64)
    elements, is_element = block(1, num_elements, ELEMENTS)
    at_3, rest = elements % size_3, elements // size_3
    at_2, rest = rest % size_2, rest // size_2
    at_1, at_0 = rest % size_1, rest // size_1
    read = tl.load(sources + pair * source_step).to(tl.int64) * from_page
    read += at_0 * from_0 + at_1 * from_1 + at_2 * from_2 + at_3 * from_3
    to = tl.load(targets + pair * target_step).to(tl.int64) * to_page
    to += at_0 * to_0 + at_1 * to_1 + at_2 * to_2 + at_3 * to_3
    tl.store(target + to, tl.load(source + read, mask=is_element), mask=is_element)


def copy_pages(pages: torch.Tensor, page_mapping: torch.Tensor) -> None:
    """Copy pages [num_pages, ...] as page_mapping [num_pairs, 2] says, sources and targets."""
    while pages.ndim < _RANK:
        pages = pages.unsqueeze(1)
    held = pages.new_empty(len(page_mapping), *pages.shape[1:])
    order = torch.arange(len(page_mapping), dtype=page_mapping.dtype, device=page_mapping.device)
    sources, targets = page_mapping.unbind(1)
    pages, held = words(pages, held)
    _start(pages, held, sources, order)
    _start(held, pages, order, targets)


def _start(source: torch.Tensor, target: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    sizes = source.shape[1:]
    num_elements = math.prod(sizes)
    launch.launch(
        _copy,
        (len(sources), triton.cdiv(num_elements, ELEMENTS)),
        *strided(source, target),
        *sizes[1:],
        num_elements,
        *strided(sources, targets),
        ELEMENTS=ELEMENTS,
    )
