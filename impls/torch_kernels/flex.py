"""FlexAttention as two adapters call it: what a mask lets through, and what becomes of a score.

Numbers are captured as tensors: a number of Python's is a constant of the graph, which is traced for each anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from kvconform.impls.torch_kernels import dense

FEATURES = {**dense.MASKED, "soft_cap": {"min": 0}}
WHY_NOT = dense.WHY_NOT | {"sinks": "its users rescale what it returns by its lse; the kernel has no such argument"}


def block_mask(
    kv_lens: torch.Tensor,
    own: torch.Tensor,
    num_slots: int,
    window: int | None,
    tree_mask: torch.Tensor | None,
    **blocks: int,
) -> BlockMask:
    """Which slots each row of each sequence sees; a window of all slots is none."""
    size, num_rows, tree = torch.tensor(window or num_slots), own.shape[1], dense.Tree.of(tree_mask, own, kv_lens)

    def seen(b: Any, h: Any, i: Any, j: Any) -> Any:
        found = dense.seen(dense.ahead(kv_lens, b, i, j, num_rows), size)
        return found if tree is None else found & tree(b, i, j)

    return create_block_mask(seen, len(kv_lens), None, num_rows, num_slots, "cpu", **blocks)


def score_mod(
    kv_lens: torch.Tensor, num_rows: int, soft_cap: float | None = None, alibi_slopes: torch.Tensor | None = None
) -> Any:
    """Of (score, sequence, head, row, key): the score under the cap, and with ALiBi's slant."""
    cap = None if soft_cap is None else torch.tensor(soft_cap)

    def changed(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        score = score if cap is None else cap * torch.tanh(score / cap)
        return score if alibi_slopes is None else score + alibi_slopes[h] * dense.ahead(kv_lens, b, i, j, num_rows)

    return changed


def changes(
    kv_lens: torch.Tensor,
    own: torch.Tensor,
    num_slots: int,
    *,
    window: int | None = None,
    tree_mask: torch.Tensor | None = None,
    blocks: dict[str, int] | None = None,
    **scores: Any,
) -> tuple[BlockMask, Any]:
    """`block_mask` and `score_mod` of a call, by the features that it is given."""
    mask = block_mask(kv_lens, own, num_slots, window, tree_mask, **(blocks or {}))
    return mask, score_mod(kv_lens, own.shape[1], **scores)


def attend(
    rows: torch.Tensor, own: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **asked: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """out and lse of what `dense.padded` gives, without the padding."""
    out, said = flex_attention(rows, k, v, **asked, enable_gqa=True, return_aux=AuxRequest(lse=True))
    return dense.unpadded(out, own), dense.unpadded(said.lse, own)
