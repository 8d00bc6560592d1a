"""torch's CPU flash attention, which scaled_dot_product_attention takes on a CPU, called where it returns its lse.

The mask is additive: ALiBi's is float32, any other 0 and -inf in the type of q, as scaled_dot_product_attention makes
it of a boolean one.
"""

from __future__ import annotations

from typing import Any

import torch

from kvconform.impls.torch_kernels import dense, handles

NAME = "torch_sdpa_flash"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small

OFFERS = {"paged_decode": {"layout": dense.LAYOUTS, "dtype": dense.ROUNDED, "strides": dense.STRIDES, **dense.MASKED}}
WHY_NOT = dense.WHY_NOT
CONVENTIONS = {"lse_base": "e", "dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "zero", "deterministic": True}
CONVENTIONS |= {"sm_scale_of_none": "head_dim"}
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
    q: Any, cache: Any, table: Any, kv_lens: Any, *, layout: str, sm_scale: Any, q_lens: Any = None, **masked: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = dense.keys_and_values(cache, layout)
    rows, own = dense.padded(q, q_lens)
    mask = dense.mask(kv_lens, own, k.shape[2], **masked)
    if mask.dtype == torch.bool:
        mask = torch.zeros((), dtype=q.dtype).where(mask, -torch.inf)
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = attention(rows, k, v, attn_mask=mask, scale=sm_scale)
    calls.launches += 1
    return dense.unpadded(out, own), dense.unpadded(lse, own)
