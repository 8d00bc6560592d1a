"""onnxruntime's com.microsoft GroupQueryAttention on the CPU: queries are those of new tokens, which it appends."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvconform.impls.onnx_kernels import session

NAME = "onnx_gqa"
BACKEND = "onnxruntime"
REQUIRES = ("onnx", "onnxruntime")

OFFERS = {"paged_decode": {"layout": {"bhsd"}, "dtype": {"float32", "float16"}, "index_dtype": {"int32"}}}
OFFERS["paged_decode"] |= {"head_dim": range(8, 257, 8), "returns": {"out"}}  # "head_size must be a multiple of 8"
OFFERS["paged_decode"] |= {"window": {"min": 0}, "soft_cap": {"min": 0}, "sinks": {"none", "drawn", "dominant"}}
OFFERS["paged_decode"] |= {"alibi_slopes": {"none", "drawn"}, "q_lens": {"min": 1}, "tree_mask": {"none", "drawn"}}
WHY_NOT = dict.fromkeys(("operation", "num_splits", "lse"), "it attends and appends new tokens, and returns out alone")
WHY_NOT |= {"into": "a session returns arrays of its own", "int64": "seqlens_k is int32", "strides": "it has none"}
WHY_NOT |= {"bfloat16": "not implemented on the CPU", "narrow": "q, K and V have one type", "layout": "its past is one"}
WHY_NOT |= dict.fromkeys(("sparse", "table_form"), "a contiguous cache has neither a pool nor a page table")
CONVENTIONS = {"dead": {"zero", "finite", "nan", "inf"}, "empty_rows": "undefined"}  # seqlens_k = -1 is out of range
CONVENTIONS |= {"sinks_dtype": "q", "sm_scale_of_none": "head_dim"}  # an attribute that is left out
ARITHMETIC = {"sum_rounds_p": False, "tile": 2**20}  # one softmax a row, in float32 where the CPU has no half gemm

calls = {"launches": 0, "device": "cpu", "mode": "eager"}


def attest() -> dict[str, Any]:
    return calls


def paged_decode(q, cache, table, kv_lens, *, layout, sm_scale, sinks=None, q_lens=None, **bounds):
    lens = np.ones_like(kv_lens) if q_lens is None else q_lens
    place = np.arange(lens.max())  # of a token in its sequence's chunk, the end of which is padding
    own, (seq, at) = (kv_lens - lens)[:, None] + place, np.nonzero(place < lens[:, None])
    new, room = (seq, slice(None), own[seq, at]), ((0, 0), (0, 0), (0, len(place) - 1), (0, 0))  # for that padding
    past = {"past_key": np.pad(cache["k"], room), "past_value": np.pad(cache["v"], room)}
    told = {"query": q, "key": past["past_key"][new], "value": past["past_value"][new]}
    for name, tokens in told.items():
        told[name] = np.zeros((*own.shape, *tokens.shape[1:]), q.dtype)
        told[name][seq, at] = tokens
        told[name] = told[name].reshape(*own.shape, -1)
    for field in past.values():
        field[new] = np.nan
    told |= {"seqlens_k": kv_lens - 1, "total_sequence_length": kv_lens.max(keepdims=True), "query_seqlens": q_lens}
    told["head_sink"], slopes, tree = sinks, bounds.pop("alibi_slopes"), bounds.pop("tree_mask")
    if slopes is not None or tree is not None:
        keys, seen = np.arange(kv_lens.max()), np.ones((*own.shape, kv_lens.max()), bool)
        if tree is not None:
            column = (keys - own[:, :1])[seq]
            seen[seq, at] = (column < 0) | np.take_along_axis(tree, column.clip(0, tree.shape[1] - 1), 1)
        slant = (np.zeros(1) if slopes is None else slopes)[:, None, None] * (keys - own[:, None, :, None])
        told["attention_bias"] = np.where(seen[:, None], slant, -np.inf).astype(q.dtype)
    asked = {"num_heads": q.shape[1], "kv_num_heads": cache["k"].shape[1], "scale": sm_scale}
    asked |= {"softcap": bounds.get("soft_cap") or 0.0, "local_window_size": bounds.get("window") or -1}
    out = session.run(told | past, **asked)
    calls["launches"] += 1
    return out.reshape(*own.shape, *q.shape[1:])[seq, at]
