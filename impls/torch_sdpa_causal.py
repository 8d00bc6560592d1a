"""torch's CPU flash attention under is_causal, a sequence at a time: on the keys that it has, without a mask.

is_causal is a triangle at the first keys, torch's causal_upper_left, and takes no mask beside it. One query token a
sequence is called without it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from kvconform.impls import torch_sdpa_flash as masked
from kvconform.impls.torch_kernels import dense, handles

NAME = "torch_sdpa_causal"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small

OFFERS = {
    "paged_decode": {
        "layout": dense.LAYOUTS,
        "dtype": dense.ROUNDED,
        "strides": {"contiguous", "outer"},
        "q_lens": {"min": 1},
        "kv_lens": {"min": 1},
    }
}
WHY_NOT = dense.WHY_NOT | {
    "feature": "is_causal goes with no mask, and the kernel has no other argument",
    "all": "the last axis is read as if its stride were 1, which torch_sdpa_flash shows",
}
CONVENTIONS = masked.CONVENTIONS | {"causal": "top_left"}
CONVENTIONS |= {"empty_rows": "undefined"}  # of no keys at all it divides by 0, and the process dies
ARITHMETIC = masked.ARITHMETIC
calls = dense.Calls()
attest = calls.attest
to_device, to_host = dense.to_cpu, handles.to_host


def paged_decode(
    q: Any, cache: Any, table: Any, kv_lens: Any, *, layout: str, sm_scale: Any, q_lens: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = dense.keys_and_values(cache, layout)
    ends = (torch.ones_like(kv_lens) if q_lens is None else q_lens).cumsum(0).tolist()
    attention, results = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, []
    for seq, (start, end) in enumerate(pairwise([0, *ends])):
        rows, (keys, values) = q[start:end].transpose(0, 1), (side[seq, :, : kv_lens[seq]] for side in (k, v))
        out, lse = attention(rows[None], keys[None], values[None], is_causal=q_lens is not None, scale=sm_scale)
        results.append((out[0].transpose(0, 1), lse[0].transpose(0, 1)))
        calls.launches += 1
    outs, lses = zip(*results, strict=True)
    return torch.cat(outs), torch.cat(lses)
