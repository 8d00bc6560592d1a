"""onnxruntime's com.microsoft GroupQueryAttention on the CPU: the last live token is the new one that it appends."""

from __future__ import annotations

from functools import cache as memoised
from typing import Any

import numpy as np
import onnxruntime
from onnx import parser

NAME = "onnx_gqa"
BACKEND = "onnxruntime"
REQUIRES = ("onnx", "onnxruntime")

OFFERS = {
    "paged_decode": {
        "layout": {"bhsd"},
        "dtype": {"float32", "float16"},
        "head_dim": range(8, 257, 8),  # "head_size must be a multiple of 8"
        "index_dtype": {"int32"},
        "returns": {"out"},
    }
}
WHY_NOT = dict.fromkeys(("operation", "num_splits", "lse"), "it attends and appends one token, and returns out alone")
WHY_NOT |= {"into": "a session returns arrays of its own"}
WHY_NOT |= {"layout": "its past is this one", "strides": "its tensors have none", "int64": "seqlens_k is int32"}
WHY_NOT |= {"bfloat16": "not implemented on the CPU", "sparse": "a contiguous cache has no pool"}
CONVENTIONS = {"dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "undefined"}  # seqlens_k = -1 is out of range
ARITHMETIC = {"sum_rounds_p": False, "tile": 2**20}  # one softmax a row, in float32 where the CPU has no half gemm
MODEL = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (T[n, 1, q] query, T[n, 1, k] key, T[n, 1, k] value, T[n, h, past, d] past_key, T[n, h, past, d] past_value,
   int32[n] seqlens_k, int32[1] total) => (T[n, 1, q] out, T[n, h, m, d] present_key, T[n, h, m, d] present_value)
{ out, present_key, present_value = com.microsoft.GroupQueryAttention <num_heads: int = Q, kv_num_heads: int = K,
  scale: float = S> (query, key, value, past_key, past_value, seqlens_k, total) }"""

calls = {"launches": 0, "device": "cpu", "mode": "eager"}


def attest() -> dict[str, Any]:
    return calls


@memoised
def _session(dtype: str, q_heads: int, kv_heads: int, scale: float) -> onnxruntime.InferenceSession:
    named = MODEL.replace("T[", f"{dtype.removesuffix('32')}[").replace("= Q", f"= {q_heads}")
    model = parser.parse_model(named.replace("= K", f"= {kv_heads}").replace("= S", f"= {scale:.9e}"))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def paged_decode(q: Any, cache: Any, block_table: Any, kv_lens: Any, *, layout: str, sm_scale: float) -> Any:
    num_seqs, num_q_heads, _ = q.shape
    told = {"query": q.reshape(num_seqs, 1, -1), "seqlens_k": kv_lens - 1, "total": kv_lens.max(keepdims=True)}
    last = np.arange(num_seqs), slice(None), kv_lens - 1
    for name, field in (("key", cache["k"]), ("value", cache["v"])):
        told[name], told[f"past_{name}"] = field[last].reshape(num_seqs, 1, -1), field.copy()
        told[f"past_{name}"][last] = np.nan
    (out,) = _session(q.dtype.name, num_q_heads, cache["k"].shape[1], sm_scale).run(["out"], told)
    calls["launches"] += 1
    return out.reshape(q.shape)
