"""torch's experimental PagedAttention on top of FlexAttention, run eagerly on the CPU: see torch_flex_attention.

Its caches [1, num_kv_heads, pages * page_size, head_dim] are those of the row `heads_first`, flattened. Its allocator
is given the pages of a sequence's table row as its free ones, and deals them out itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.attention.experimental._paged_attention import PagedAttention
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from kvconform.impls import torch_flex_attention as flex
from kvconform.impls.torch_kernels import dense, handles

NAME = "torch_paged_attention"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")

OFFERS = {
    "append": {"layout": {"heads_first"}, "skip": 0},  # a token that is passed is written: nothing says "not this one"
    "paged_decode": {"layout": {"heads_first"}, "dtype": dense.ROUNDED, "static": True},
}
WHY_NOT = dense.WHY_NOT | {"layout": "its cache is this one", "strides": "they are one axis", "sparse": "it is copied"}
CONVENTIONS = flex.CONVENTIONS | {"table_padding": {"valid", "minus_one"}}  # its own tables end in -1
ARITHMETIC = flex.ARITHMETIC
IN_PLACE = {"append": "cache"}
calls = dense.Calls()
attest = calls.attest
to_device, to_host = dense.to_cpu, handles.to_host


def _paged(cache: Mapping[str, torch.Tensor], rows: list[list[int]]) -> tuple[PagedAttention, list[torch.Tensor]]:
    """Sequences that own these pages, and K and V with page and slot as one axis."""
    pages, page_size = cache["k"].shape[1:3]
    paged = PagedAttention(pages, page_size, len(rows), device="cpu")
    for seq, row in enumerate(rows):
        paged.empty_pages = row
        paged.reserve(torch.tensor(seq), torch.tensor(len(row) * page_size))
    return paged, [cache[side].flatten(1, 2)[None] for side in ("k", "v")]


def append(cache: Any, k: torch.Tensor, v: torch.Tensor, slot_mapping: torch.Tensor, *, layout: str) -> Any:
    paged, caches = _paged(cache, [list(range(cache["k"].shape[1]))])  # one sequence: slot i is its position i
    paged.assign(torch.tensor([0]), slot_mapping[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], *caches)
    calls.launches += 1
    return cache


def paged_decode(q: torch.Tensor, cache: Any, block_table: Any, kv_lens: Any, *, layout: str, sm_scale: float) -> Any:
    owned = zip(block_table.tolist(), (-(-kv_lens // (size := cache["k"].shape[2]))).tolist(), strict=True)
    paged, (k, v) = _paged(cache, [row[:pages] for row, pages in owned])
    logical = create_block_mask(lambda b, h, i, j: j < kv_lens[b], len(q), None, 1, k.shape[2], "cpu", BLOCK_SIZE=size)
    mask, aux = paged.convert_logical_block_mask(logical), AuxRequest(lse=True)
    out, said = flex_attention(q[:, :, None], k, v, block_mask=mask, scale=sm_scale, enable_gqa=True, return_aux=aux)
    calls.launches += 1
    return out[:, :, 0], said.lse[:, :, 0]
