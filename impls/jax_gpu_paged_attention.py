"""JAX's own Pallas-GPU `paged_attention`, compiled by Triton on a GPU, interpreted anywhere else.

It is called with its own defaults, but for `k_splits`. What it does, seen by experiment with jax 0.10.2 and 0.11.2,
interpreted:

dead slots     K may hold anything there, since masked scores are replaced. V may not: a masked slot's weight is an
               exact 0, and 0 times NaN or infinity is NaN. That reaches the output from the tail of the last page,
               and from pages of the table's padding that share a compute block (8 pages) with a live one; not from
               pages that the table does not name, nor in a sequence without keys. Its documentation does not forbid
               NaN there, so NaN is claimed below, for the suite to judge.
table padding  is read, and has to be page ids within the cache; -1 happens to mean the last page when interpreted.
empty rows     are 0: a sum of nothing, divided by the eps that is added to every denominator.
lse            is not returned, nor are m and l.
sm_scale       is not there: scores are q . k.
16-bit caches  have P, partial results and denominator rounded to their type. In float16 the eps that keeps the
               denominator of empty rows from 0 gives NaN instead (its reciprocal is infinite): not offered.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

with warnings.catch_warnings():  # jax 0.11 deprecates the module on import; it is there, and people run it
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

NAME = "jax_gpu_paged_attention"
BACKEND = "pallas_gpu"
REQUIRES = ("jax", "ml_dtypes")
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

COMPILED = jax.default_backend() == "gpu"
DEVICE = jax.devices("gpu" if COMPILED else "cpu")[0]

OFFERS = {
    "paged_decode": {
        "layout": {"heads_first"},
        "dtype": {"float32", "bfloat16"},
        "page_size": {16} if COMPILED else {4, 8, 16},  # Triton's dot has no side below 16
        "head_dim": {16} if COMPILED else {8, 16},
        "num_kv_heads": {1, 2, 3},
        "group": {1, 2, 3},
        "num_splits": {1, 2, 3},
        "sm_scale": {1.0},
        "returns": {"out"},
        "index_dtype": {"int32"},
        "static": True,
    }
}
CONVENTIONS = {
    "dead": {"zero", "finite", "nan"},
    "table_padding": {"valid"},
    "empty_rows": "zero",
    "deterministic": True,
}
_DOT = "tfloat32" if COMPILED else None
ARITHMETIC = {
    # plgpu.dot(q, k.T) and plgpu.dot(s_curr.astype(v.dtype), v): no precision given, which Triton takes for tf32
    "q_format": _DOT,
    "k_format": _DOT,
    "p_format": {"float32": _DOT, "bfloat16": "bfloat16"},  # s_curr.astype(v.dtype)
    "v_format": _DOT,
    "qk_accumulator": "float32",  # plgpu.dot: preferred_element_type is float32
    "pv_accumulator": "float32",  # the same; o = jnp.zeros(..., dtype=jnp.float32)
    "qk_truncates": COMPILED,  # tensor cores
    "pv_truncates": COMPILED,
    "softmax_format": "float32",  # m_i, l_i: jnp.float32; s_curr = jnp.exp2((logits - m_next[:, None]) * log2e)
    # float32: l_curr = s_curr.sum(axis=-1), before the cast. bfloat16: (l_next + eps).astype(o.dtype) rounds it too
    "sum_rounds_p": {"float32": False},
    "normalises_first": False,  # o / l comes last, outside the kernel
    "exp_error": 2.0**-22 + 2.0**-23,  # of exp2, and of `l_next[..., None] + eps`, where l_next >= 1 and eps = 2**-23
    "partial_format": {
        "bfloat16": "bfloat16"
    },  # out_shape (k_splits, ...) has dtype=q.dtype, and o is not normalised in it
    # o.sum(axis=0), l.sum(axis=0): one merge. bfloat16 rounds a partial thrice in it: correction.astype, product, sum
    "merge_levels": {"float32": 1, "bfloat16": 3},
    "renormalises": True,  # o / (l_next + eps)
}
IN_PLACE: dict[str, str] = {}

_launches = 0


def to_device(array: np.ndarray[Any, Any]) -> jax.Array:
    return jax.device_put(array, DEVICE)


def to_host(handle: jax.Array) -> np.ndarray[Any, Any]:
    return np.asarray(handle)


def attest() -> dict[str, Any]:
    mode = "compiled" if COMPILED else "interpreted"
    return {"launches": _launches, "device": DEVICE.device_kind, "mode": mode}


def _widened(block_table: jax.Array, num_splits: int) -> jax.Array:
    """The table with its last column repeated until each split has a power of two of them.

    The kernel asserts that k_splits divides the width, and Triton loads only powers of two.
    """
    width = block_table.shape[1]
    columns = num_splits * 2 ** (-(-width // num_splits) - 1).bit_length()
    return jnp.pad(block_table, ((0, 0), (0, columns - width)), mode="edge")


def paged_decode(
    q: jax.Array,
    cache: Mapping[str, jax.Array],
    block_table: jax.Array,
    kv_lens: jax.Array,
    *,
    layout: str,
    sm_scale: float,
    num_splits: int = 1,
) -> jax.Array:
    global _launches
    if layout != "heads_first" or sm_scale != 1.0:
        raise ValueError(f"layout {layout!r} and sm_scale {sm_scale}: this kernel has heads_first and 1.0 alone")
    table = _widened(block_table, num_splits)
    out = paged_attention(q, cache["k"], cache["v"], table, kv_lens, k_splits=num_splits, interpret=not COMPILED)
    _launches += 1
    return jax.block_until_ready(out)
