"""JAX's own Pallas-GPU `paged_attention`, compiled by Triton on a GPU, interpreted anywhere else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kvconform.impls.jax_kernels import handles

with warnings.catch_warnings():  # jax 0.11 deprecates the module on import; it is there, and people run it
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

NAME = "jax_gpu_paged_attention"
BACKEND = "pallas_gpu"
REQUIRES = ("jax", "ml_dtypes")
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

OFFERS = {
    "paged_decode": {
        "layout": {"heads_first"},
        "dtype": {"float32", "float16", "bfloat16"},
        **({"page_size": {16}, "head_dim": {16}} if handles.COMPILED else {}),  # Triton: powers of 2, dots from 16
        "num_splits": {1, 2, 3},
        "soft_cap": {"min": 0},
        "sm_scale": {1.0},  # scores are q . k
        "returns": {"out"},
        "index_dtype": {"int32"},
        "static": True,
    }
}
WHY_NOT = {**handles.WHY_NOT, "lse": "m and l are dropped"}
CONVENTIONS = {
    "dead": {"zero", "finite", "nan", "inf"},
    "table_padding": {"valid"},  # documented: each entry in [0, total_num_pages)
    "empty_rows": "zero",
    "sm_scale_of_none": "one",
}
ARITHMETIC = handles.TRITON_ARITHMETIC

_kernel = handles.Kernel(paged_attention)
to_device, to_host, attest = _kernel.to_device, handles.to_host, _kernel.attest


def _widened(table: jax.Array, num_splits: int) -> jax.Array:
    """The table with its last column repeated until each split has a power of two of them, which Triton can load."""
    each = 2 ** (-(-table.shape[1] // num_splits) - 1).bit_length()
    return jnp.pad(table, ((0, 0), (0, num_splits * each - table.shape[1])), mode="edge")


def paged_decode(
    q: jax.Array, cache: Mapping[str, jax.Array], table: jax.Array, kv_lens: jax.Array, num_splits: int, **told: object
) -> jax.Array:
    asked = {"k_splits": num_splits, "attn_logits_soft_cap": told.get("soft_cap")}
    return _kernel(q, cache["k"], cache["v"], _widened(table, num_splits), kv_lens, **asked)
