"""merge_kv and extract: K and V side by side, rows K0 V0 K1 V1 ..."""

from __future__ import annotations

import torch
import triton.language as tl

from kvconform.impls.triton_kernels import blocks, launch
from kvconform.impls.triton_kernels.blocks import block, in_token
from kvconform.impls.triton_kernels.pages import strided, words


@launch.kernel("k_dim", "v_dim", "kv_dim", "head_dim")
def _merge_kv(
    k, k_token, k_head, k_dim, v, v_token, v_head, v_dim, kv, kv_token, kv_row, kv_dim,
    num_tokens, num_elements, head_dim,
    TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    tokens, is_token = block(0, num_tokens, TOKENS)
    elements, is_element = block(1, num_elements, ELEMENTS)
    mask = is_token[:, None] & is_element[None, :]
    from_k = (tokens * k_token)[:, None] + in_token(elements, head_dim, k_head, k_dim)[None, :]
    from_v = (tokens * v_token)[:, None] + in_token(elements, head_dim, v_head, v_dim)[None, :]
    to = (tokens * kv_token)[:, None] + in_token(elements, head_dim, 2 * kv_row, kv_dim)[None, :]
    tl.store(kv + to, tl.load(k + from_k, mask=mask), mask=mask)
    tl.store(kv + to + kv_row, tl.load(v + from_v, mask=mask), mask=mask)


@launch.kernel("kv_dim", "rows_dim", "head_dim")
def _extract(
    kv, kv_token, kv_row, kv_dim, rows, rows_token, rows_head, rows_dim,
    first_row, num_tokens, num_elements, head_dim,
    TOKENS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    tokens, is_token = block(0, num_tokens, TOKENS)
    elements, is_element = block(1, num_elements, ELEMENTS)
    mask = is_token[:, None] & is_element[None, :]
    read = (tokens * kv_token + first_row * kv_row)[:, None] + in_token(elements, head_dim, 2 * kv_row, kv_dim)[None, :]
    to = (tokens * rows_token)[:, None] + in_token(elements, head_dim, rows_head, rows_dim)[None, :]
    tl.store(rows + to, tl.load(kv + read, mask=mask), mask=mask)


def merge_kv(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """K0 V0 K1 V1 ... of k and v [num_tokens, num_kv_heads, head_dim]."""
    num_tokens, num_kv_heads, head_dim = k.shape
    kv = k.new_empty(num_tokens, 2 * num_kv_heads, head_dim)
    _move(_merge_kv, words(k, v, kv), num_tokens, num_kv_heads)
    return kv


def extract(kv: torch.Tensor, first_row: int) -> torch.Tensor:
    """Every second row of kv [num_tokens, 2 * num_kv_heads, head_dim], from first_row on: 0 K, 1 V."""
    num_tokens, num_rows, head_dim = kv.shape
    rows = kv.new_empty(num_tokens, num_rows // 2, head_dim)
    _move(_extract, words(kv, rows), num_tokens, num_rows // 2, first_row)
    return rows


def _move(kernel, tensors: list[torch.Tensor], num_tokens: int, num_kv_heads: int, *first_row: int) -> None:
    head_dim = tensors[0].shape[-1]
    num_elements = num_kv_heads * head_dim
    grid = blocks.count(num_tokens, num_elements)
    sizes = num_tokens, num_elements, head_dim
    launch.launch(kernel, grid, *strided(*tensors), *first_row, *sizes, **blocks.SIZES)
