"""FlexAttention under a block mask of the live slots, run eagerly on the CPU: torch's `math_attention`.

Compiled for a CPU (torch 2.13) it returns no lse, takes 8 to 30 s a shape, and on a second shape, then a symbolic one,
its C++ does not compile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from kvconform.impls.torch_kernels import dense, handles

NAME = "torch_flex_attention"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")

OFFERS = {
    "paged_decode": {
        "layout": dense.LAYOUTS,
        "dtype": dense.ROUNDED,
        "strides": dense.STRIDES,
        "static": True,  # a call takes 50 ms, and one of a new shape is traced first
    }
}
WHY_NOT = dense.WHY_NOT
CONVENTIONS = {"lse_base": "e", "dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "zero", "deterministic": True}
ARITHMETIC = {  # q . k and softmax are float32, whatever the operands were
    "p_format": {"float16": "float16", "bfloat16": "bfloat16"},  # post_mod_scores.to(query.dtype), normalised
    "sum_rounds_p": False,
    "tile": 2**20,  # one softmax over the whole row
}
calls = dense.Calls()
attest = calls.attest
to_device, to_host = dense.to_cpu, handles.to_host


def paged_decode(
    q: torch.Tensor, cache: Mapping[str, torch.Tensor], block_table: Any, kv_lens: Any, *, layout: str, sm_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = dense.keys_and_values(cache, layout)
    mask = create_block_mask(lambda b, h, i, j: j < kv_lens[b], len(q), None, 1, k.shape[2], device="cpu")
    aux = AuxRequest(lse=True)
    out, said = flex_attention(q[:, :, None], k, v, block_mask=mask, scale=sm_scale, enable_gqa=True, return_aux=aux)
    calls.launches += 1
    return out[:, :, 0], said.lse[:, :, 0]
