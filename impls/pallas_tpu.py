"""Pallas-TPU kernels of this repository (`impls/pallas_kernels`), compiled on a TPU, interpreted anywhere else.

The interpreter runs them with races, memory that nobody wrote and reads out of bounds made visible; a race is an error.
For a TPU they have been compiled, ahead of time; none has run on one. What Mosaic refuses is not offered there: half of
a row narrower than two tiles of 128 lanes, one slot out of a tile that holds several, float16 arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kvconform.impls.pallas_kernels import decode, launch, merge, movement

NAME = "pallas_tpu"
BACKEND = "pallas"
REQUIRES = ("jax", "ml_dtypes")
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

Array = Any
Cache = Mapping[str, Array]

_PAGED = {"nhd", "hnd", "heads_first", "interleaved", "split_x"}
_ROW_AT_A_TIME = {"nhd", "interleaved"} if launch.COMPILED else _PAGED | {"code_rows", "code_columns"}
_MOVED = {"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8"}
_ROUNDED = {"float32", "bfloat16"}
_HEADS = {"num_kv_heads": {1, 2, 3}, "head_dim": {128} if launch.COMPILED else {8, 16}, "static": True}
_PAGES = {"page_size": {8, 16} if launch.COMPILED else {1, 2, 3, 4}, **_HEADS}

OFFERS = {
    "merge_kv": {"layout": {"fused"}, "dtype": _MOVED, **_HEADS},
    "extract_k": {"layout": {"fused"}, "dtype": _MOVED, **_HEADS},
    "extract_v": {"layout": {"fused"}, "dtype": _MOVED, **_HEADS},
    "append": {"layout": _ROW_AT_A_TIME, "dtype": _MOVED, "index_dtype": {"int32"}, **_PAGES},
    "gather": {"layout": _ROW_AT_A_TIME, "dtype": _MOVED, **_PAGES},
    "paged_decode": {"layout": _PAGED, "dtype": _ROUNDED, "group": {1, 2, 3}, "num_splits": {1, 2, 3}, **_PAGES},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, "group": {1, 2, 3}, **_HEADS},
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan"},
    "table_padding": {"valid", "minus_one"},
    "empty_rows": "zero",
    "deterministic": True,
}
ARITHMETIC = {
    "qk_accumulator": "float32",  # decode.py, `queries` and _heads: q and k are float32 before they meet, EXACT
    "softmax_format": "float32",  # decode.py, _seen: scores are float32 and stay so
    "p_format": None,  # decode.py, _seen: `weight` meets v in float32
    "sum_rounds_p": False,  # decode.py, _seen: `total` sums the same float32 weights
    "normalises_first": False,  # decode.py, kernel: `mixed / total`, after the last page
    "pv_accumulator": "float32",  # decode.py, _unseen: `mixed` is float32
    "partial_format": "float32",  # paged_decode below: with splits, out_dtype of the parts
    "merge_levels": 1,  # merge.py, kernel: one sum over all parts
    "renormalises": True,  # merge.py, kernel: the weighted sum is divided by `total`
}
IN_PLACE: dict[str, str] = {}


def to_device(array: np.ndarray[Any, Any]) -> Array:
    return jax.device_put(array, launch.DEVICE)


def to_host(handle: Array) -> np.ndarray[Any, Any]:
    return np.asarray(handle)


def attest() -> dict[str, Any]:
    mode = "compiled" if launch.COMPILED else "interpreted"
    return {"launches": launch.launches, "device": launch.DEVICE.device_kind, "mode": mode}


def merge_kv(k: Array, v: Array) -> Array:
    return launch.launch(movement.merge_kv, k, v)


def extract_k(kv: Array) -> Array:
    return launch.launch(movement.extract, kv, half=0)


def extract_v(kv: Array) -> Array:
    return launch.launch(movement.extract, kv, half=1)


def append(cache: Cache, k: Array, v: Array | None, slot_mapping: Array, *, layout: str) -> dict[str, Array]:
    tokens = (k,) if v is None else (k, v)
    return launch.launch(movement.append, dict(cache), tokens, slot_mapping, layout=layout)


def gather(cache: Cache, block_table: Array, kv_lens: Array, *, layout: str) -> tuple[Array, Array | None]:
    rows = launch.launch(movement.gather, dict(cache), block_table, kv_lens, layout=layout)
    total = int(np.sum(kv_lens))
    k, v = (np.asarray(side)[:total] for side in rows) if len(rows) == 2 else (np.asarray(rows[0])[:total], None)
    return k, v


def paged_decode(
    q: Array,
    cache: Cache,
    block_table: Array,
    kv_lens: Array,
    *,
    layout: str,
    sm_scale: float,
    num_splits: int = 1,
) -> tuple[Array, Array]:
    parts = launch.launch(
        decode.paged_decode,
        q,
        dict(cache),
        block_table,
        kv_lens,
        sm_scale,
        layout=layout,
        num_splits=num_splits,
        out_dtype=q.dtype if num_splits == 1 else np.dtype(np.float32),
    )
    if num_splits == 1:
        out, lse = parts
        return out[0], lse[0]
    return launch.launch(merge.merge_states, *parts, out_dtype=q.dtype)


def merge_states(outs: Array, lses: Array) -> tuple[Array, Array]:
    return launch.launch(merge.merge_states, outs, lses, out_dtype=outs.dtype)
