"""JAX's own Pallas-TPU `paged_attention`, interpreted on the CPU, with half a table, or one page, a compute block."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

from kvconform.impls.jax_kernels import handles

NAME = "jax_tpu_paged_attention"
BACKEND = "pallas_tpu"
REQUIRES = ("jax", "ml_dtypes")
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

OFFERS = {
    "paged_decode": {
        "layout": {"heads_first"},
        "dtype": {"float32", "float16", "bfloat16"},
        "page_size": {8, 16},
        "num_kv_heads": {1, 2},
        "group": {5, 8},  # multiples of 8 go another way than all others
        "head_dim": {8, 16},
        "soft_cap": {0.0, 2.0},  # each is compiled anew
        "sm_scale": {1.0},  # scores are q . k
        "returns": {"out"},
        "index_dtype": {"int32"},
        "static": True,
    }
}
WHY_NOT = {**handles.WHY_NOT, "lse": "m and l are dropped", "num_splits": "the kernel does not split"}
WHY_NOT |= {"narrow": "it takes int8 with scales that are 127.5 times what a number is worth: no such float32 is exact"}
CONVENTIONS = {
    "dead": {"zero", "finite", "nan", "inf"},
    "table_padding": {"valid"},  # documented: each entry in [0, total_num_pages)
    "empty_rows": "zero",
    "sm_scale_of_none": "one",
}
ARITHMETIC = {  # that a float32 or float16 cache is rounded to bfloat16 is not declared: a finding
    "qk_accumulator": "float32",  # einsum("gd,td->gt", q, k, preferred_element_type=float32), q as float32
    "softmax_format": "float32",  # m_ref, l_ref, qk
    "sum_rounds_p": False,  # einsum("gt,td->gd", s_curr, v) takes the float32 that l sums
    "pv_accumulator": "float32",
}

_kernel = handles.TPUKernel(paged_attention)
to_device, to_host, attest = _kernel.to_device, handles.to_host, _kernel.attest


def paged_decode(
    q: jax.Array, cache: Mapping[str, jax.Array], block_table: jax.Array, kv_lens: jax.Array, **told: object
) -> jax.Array:
    width = block_table.shape[1]
    pages = 1 if width % 2 else width // 2  # has no default, and must divide the width
    asked = {"pages_per_compute_block": pages, "attn_logits_soft_cap": told.get("soft_cap")}
    return _kernel(q, cache["k"], cache["v"], kv_lens, block_table, **asked)
