"""JAX's own Pallas-GPU `decode_attention.gqa`, compiled by Triton on a GPU, interpreted anywhere else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kvconform.impls.jax_kernels import handles

with warnings.catch_warnings():  # jax 0.11 deprecates the module on import; it is there, and people run it
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu.decode_attention import gqa

NAME = "jax_gpu_gqa"
BACKEND = "pallas_gpu"
REQUIRES = ("jax", "ml_dtypes")
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

OFFERS = {
    "paged_decode": {
        "layout": {"bshd"},
        "dtype": {"float32", "float16", "bfloat16"},
        "page_size": {96},  # an error unless k_splits cuts the cache into whole blocks of block_k >= 16 slots
        "num_splits": {1, 2, 3},
        "window": {"min": 0},
        **({"head_dim": {16}} if handles.COMPILED else {}),  # Triton: powers of 2, dots from 16
        "index_dtype": {"int32"},
        "static": True,
    }
}
WHY_NOT = handles.WHY_NOT
CONVENTIONS = {"lse_base": "e", "dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "zero"}
CONVENTIONS |= {"sm_scale_of_none": "head_dim"}
ARITHMETIC = handles.TRITON_ARITHMETIC

_kernel = handles.Kernel(gqa)
to_device, to_host, attest = _kernel.to_device, handles.to_host, _kernel.attest


def paged_decode(
    q: jax.Array,
    cache: Mapping[str, jax.Array],
    block_table: jax.Array,
    kv_lens: jax.Array,
    *,
    layout: str,
    sm_scale: float | None,
    num_splits: int,
    window: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    first = None if window is None else kv_lens - window
    asked = {"start_idx": first, "kv_seq_len": kv_lens, "sm_scale": sm_scale, "k_splits": num_splits}
    out, (total, top) = _kernel(q, cache["k"], cache["v"], **asked, block_k=16, return_residuals=True)
    return out, top + jnp.log(total)
