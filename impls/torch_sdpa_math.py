"""torch.nn.functional.scaled_dot_product_attention, its math backend, under a mask: boolean, or ALiBi's float32.

It is composed of torch's own operations (torch 2.13, seen with a TorchDispatchMode): 16-bit operands become float32, q
and k are multiplied by sqrt(scale) each, an additive mask of 0 and -inf follows, `_safe_softmax` makes zeros of rows
without a key, and the result is rounded at the end. No lse is returned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from kvconform.impls.torch_kernels import dense, handles

NAME = "torch_sdpa_math"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small

OFFERS = {
    "paged_decode": {
        "layout": dense.LAYOUTS,
        "dtype": dense.ROUNDED,
        "strides": dense.STRIDES,
        "returns": {"out"},
        **dense.MASKED,
    }
}
WHY_NOT = dense.WHY_NOT | {"lse": "the function returns none"}
CONVENTIONS = {"dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "zero", "deterministic": True}
CONVENTIONS |= {"sm_scale_of_none": "head_dim"}
ARITHMETIC = {
    "qk_error": 4 * 2.0**-24,  # sqrt(scale) is rounded, and its products with q and with k
    "sum_rounds_p": False,  # P is float32, whatever the operands were
    "tile": 2**20,  # one softmax over the whole row
}
calls = dense.Calls(device=handles.device_name())
attest = calls.attest
to_device, to_host, synchronize = handles.to_device, handles.to_host, handles.synchronize


def paged_decode(
    q: Any, cache: Any, table: Any, kv_lens: Any, *, layout: str, sm_scale: Any, q_lens: Any = None, **masked: Any
) -> torch.Tensor:
    k, v = dense.keys_and_values(cache, layout)
    rows, own = dense.padded(q, q_lens)
    mask = dense.mask(kv_lens, own, k.shape[2], **masked)
    with sdpa_kernel(SDPBackend.MATH):
        out = scaled_dot_product_attention(rows, k, v, attn_mask=mask, scale=sm_scale, enable_gqa=True)
    calls.launches += 1
    return dense.unpadded(out, own)
