"""torch's CPU flash attention, which scaled_dot_product_attention takes on a CPU, called where it returns its lse.

The mask of live slots is additive, 0 and -inf in the type of q, as scaled_dot_product_attention makes it of a boolean
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kvconform.impls.torch_kernels import dense, handles

NAME = "torch_sdpa_flash"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")

OFFERS = {"paged_decode": {"layout": dense.LAYOUTS, "dtype": dense.ROUNDED, "strides": dense.STRIDES}}
WHY_NOT = dense.WHY_NOT
CONVENTIONS = {"lse_base": "e", "dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "zero", "deterministic": True}
ARITHMETIC = {
    "p_format": {"float16": "float16", "bfloat16": "bfloat16"},  # qk_reduced_data, as an operand of the second gemm
    "sum_rounds_p": False,  # the float32 exponentials are summed before they are stored
    "normalises_first": False,  # after the last tile: a product with 1 / sum
    # ATen/cpu/vec: on [-87, 0] exp_u20 errs by 1.01 * 2**-21, fexp_u20 (for 16-bit P) by 2**-13; rescales: std::exp
    "exp_error": {"float32": 2.0**-20, "float16": 2.0**-13, "bfloat16": 2.0**-13},
    "tile": 512,  # kv_split_size
}
calls = dense.Calls()
attest = calls.attest
to_device, to_host = dense.to_cpu, handles.to_host


def paged_decode(
    q: torch.Tensor, cache: Mapping[str, torch.Tensor], block_table: Any, kv_lens: Any, *, layout: str, sm_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = dense.keys_and_values(cache, layout)
    mask = torch.zeros((), dtype=q.dtype).where(dense.live(kv_lens, k.shape[2]), -torch.inf)
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = attention(q[:, :, None], k, v, attn_mask=mask, scale=sm_scale)
    calls.launches += 1
    return out[:, :, 0], lse[:, :, 0]
