"""FlexAttention under a block mask of the live slots, run eagerly on the CPU: torch's `math_attention`.

Compiled for a CPU (torch 2.13) it returns no lse, takes 8 to 30 s a shape, and on a second shape, then a symbolic one,
its C++ does not compile.
"""

from __future__ import annotations

from typing import Any

import torch

from kvconform.impls.torch_kernels import dense, flex, handles

NAME = "torch_flex_attention"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small

OFFERS = {
    "paged_decode": {
        "layout": dense.LAYOUTS,
        "dtype": dense.ROUNDED,
        "strides": dense.STRIDES,
        **flex.FEATURES,
        "static": True,  # a call takes 50 ms, and one of a new shape is traced first
    }
}
WHY_NOT = flex.WHY_NOT
CONVENTIONS = {"lse_base": "e", "dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "zero", "deterministic": True}
CONVENTIONS |= {"sm_scale_of_none": "head_dim"}
ARITHMETIC = {  # q . k and softmax are float32, whatever the operands were
    "p_format": {"float16": "float16", "bfloat16": "bfloat16"},  # post_mod_scores.to(query.dtype), normalised
    "sum_rounds_p": False,
    "tile": 2**20,  # one softmax over the whole row
}
calls = dense.Calls()
attest = calls.attest
to_device, to_host = dense.to_cpu, handles.to_host


def paged_decode(
    q: Any, cache: Any, table: Any, kv_lens: Any, *, layout: str, sm_scale: Any, q_lens: Any = None, **mods: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = dense.keys_and_values(cache, layout)
    rows, own = dense.padded(q, q_lens)
    mask, changed = flex.changes(kv_lens, own, k.shape[2], **mods)
    calls.launches += 1
    return flex.attend(rows, own, k, v, score_mod=changed, block_mask=mask, scale=sm_scale)
