"""The arithmetic profile: what a kernel says of its own rounding, stage by stage.

An adapter states a few of these fields in `ARITHMETIC`; the error bound (`oracles/bound.py`) is computed from them and
from nothing else. A field that is left out keeps its default: an IEEE-like float32 kernel in one pass, tiles in any
order. Formats are names of `specs.dtypes.FORMATS`; `None` means "not rounded at this stage". Errors named `*_error`
are relative unless their line says absolute.

A value may also be a dict of dtype -> value, for kernels that round to the type of their cache:
`{"p_format": {"bfloat16": "bfloat16"}}`. Dtypes that it leaves out keep the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How a decode-attention kernel rounds: operands, dot, scores, softmax, P, PV, partials, result."""

    # distances to centroids (pq_encode): like q . k below, from differences, or from squares and products
    expands_distance: bool = False  # |c|^2 - 2 x.c rather than |x - c|^2
    # operands, re-rounded by the kernel after it loaded them
    q_format: str | None = None
    k_format: str | None = None
    v_format: str | None = None
    dequant_format: str = "float32"  # codes are multiplied with their scales, and moved by their zeros, in this format
    # q . k
    qk_error: float = 0.0  # any further relative error of a product (bf16x3: 3 * 2**-16; q scaled beforehand: 2**-24)
    qk_accumulator: str = "float32"
    qk_truncates: bool = False  # the accumulator rounds toward zero (tensor cores)
    qk_depth: int | None = None  # longest chain of additions; None: head_dim
    table_format: str | None = None  # products of q and centroids are stored in this format (pq_decode_attention)
    score_format: str | None = None  # scores are stored in this format once, and again after cap and after bias
    # softmax
    tanh_error: float = 2.0**-21  # absolute, on [-1, 1] (tanh.approx: 2**-10.9)
    softmax_format: str = "float32"  # exp, log, and the sum that is the denominator, rounded to nearest
    exp_error: float = 2.0**-22  # exp(0) must be exactly 1
    log_error: float = 2.0**-22  # times 1 + |log|
    tile: int = 1  # least number of live keys between two updates of the running maximum; 1 under a scattered mask
    max_lag: float = 0.0  # nats between the reference point and the true maximum (lazy rescaling: 8 ln 2)
    # P and P . V
    p_format: str | None = None
    p_scale: float = 1.0
    sum_rounds_p: bool = True  # the denominator may sum the rounded P
    normalises_first: bool = True  # P may be divided by the denominator before it is rounded or multiplied
    pv_accumulator: str = "float32"
    pv_error: float = 0.0  # any further relative error of a product (bf16x3: 3 * 2**-16)
    pv_truncates: bool = False
    pv_depth: int | None = None  # longest chain of additions, of the denominator too; None: the number of keys
    # partial results of splits
    splits: int = 1
    merge_levels: int | None = None  # merges that one partial goes through: flat 1, tree log2; None: splits
    partial_format: str | None = None  # partials, and each merge's result, are stored in this format
    partial_lse_format: str | None = None  # so is their lse, which weighs them
    renormalises: bool = False  # weights are divided by their own sum rather than used as exp(lse_k - lse)
    # hardware and result
    flushes_subnormals: bool = True  # of float32, tfloat32 and bfloat16
    flushes_small_subnormals: bool = False  # of float16 and the 8-bit formats
    out_format: str = "float32"
    lse_format: str = "float32"


def profile_of(arithmetic: Mapping[str, Any], dtype: str) -> Profile:
    """The profile that an adapter's ARITHMETIC gives for caches of one dtype."""
    values = {
        name: value.get(dtype, _DEFAULT) if isinstance(value, Mapping) else value for name, value in arithmetic.items()
    }
    return Profile(**{name: value for name, value in values.items() if value is not _DEFAULT})


_DEFAULT = object()
