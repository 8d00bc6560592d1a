"""torch's experimental PagedAttention on top of FlexAttention, run eagerly on the CPU: see torch_flex_attention.

Its caches [1, num_kv_heads, pages * page_size, head_dim] are those of the row `heads_first`, flattened. Its allocator
is given the pages of a sequence's table row as its free ones, and deals them out itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.experimental._paged_attention import PagedAttention

from kvconform.impls import torch_flex_attention as of_flex
from kvconform.impls.torch_kernels import dense, flex, handles

NAME = "torch_paged_attention"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small

OFFERS = {
    "append": {"layout": {"heads_first"}, "skip": 0},  # a token that is passed is written: nothing says "not this one"
    "paged_decode": {"layout": {"heads_first"}, "dtype": dense.ROUNDED, "static": True, **flex.FEATURES},
}
WHY_NOT = flex.WHY_NOT | {"layout": "its cache is this one", "strides": "they are one axis", "sparse": "it is copied"}
CONVENTIONS = of_flex.CONVENTIONS | {"table_padding": {"valid", "minus_one"}}  # its own tables end in -1
ARITHMETIC, IN_PLACE = of_flex.ARITHMETIC, {"append": "cache"}
calls = dense.Calls()
attest, to_device, to_host = calls.attest, dense.to_cpu, handles.to_host


def _paged(cache: Any, rows: list[list[int]]) -> tuple[PagedAttention, list[torch.Tensor]]:
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


def paged_decode(
    q: Any, cache: Any, table: Any, kv_lens: Any, *, layout: str, sm_scale: Any, q_lens: Any = None, **mods: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    owned = zip(table.tolist(), (-(-kv_lens // (size := cache["k"].shape[2]))).tolist(), strict=True)
    paged, (k, v) = _paged(cache, [row[:pages] for row, pages in owned])
    rows, own = dense.padded(q, q_lens)
    logical, changed = flex.changes(kv_lens, own, k.shape[2], **mods, blocks={"BLOCK_SIZE": size})
    mask, changed = paged.convert_logical_block_mask(logical), paged.get_score_mod(changed)
    calls.launches += 1
    return flex.attend(rows, own, k, v, score_mod=changed, block_mask=mask, scale=sm_scale)
