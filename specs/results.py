"""What an operation must return: shape and dtype of every result, from its arguments; whether there is work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvconform.specs import lse
from kvconform.specs.case import Case
from kvconform.specs.dtypes import host
from kvconform.specs.paged import PagedInputs
from kvconform.specs.row import V

Signature = tuple[tuple[int, ...], np.dtype[Any]]


def results(
    op: str, case: Case, arguments: Mapping[str, Any], lse_form: Mapping[str, Any] = lse.OWN
) -> dict[str, Signature]:
    """Result (for append: buffer of the cache; for gather: part of the layout) -> (shape, dtype).

    lse_form   conventions about lse, of what is returned; arguments are in the suite's own axes
    """
    if op == "merge_kv":
        tokens, heads, dim = arguments["k"].shape
        return {"kv": ((tokens, 2 * heads, dim), arguments["k"].dtype)}
    if op in ("extract_k", "extract_v"):
        tokens, rows, dim = arguments["kv"].shape
        return {op[-1]: ((tokens, rows // 2, dim), arguments["kv"].dtype)}
    if op in ("append", "copy_pages", "pq_append"):
        return {name: (array.shape, array.dtype) for name, array in arguments["cache"].items()}
    if op == "gather":
        row, x, num_tokens = case.row, PagedInputs(case), int(arguments["kv_lens"].sum())
        return {
            part.name: ((num_tokens, *x.token_shape(part)), host(row.dtype_of(part, case.dtype))) for part in row.parts
        }
    if op == "pq_encode":
        tokens, heads, _ = arguments["x"].shape
        sizes = {"token": tokens, "head": heads, "subspace": len(arguments["codebooks"])}
        return {"codes": (case.row.shape("codes", sizes, case.dtype), case.row.word_of("codes", case.dtype))}
    if op == "pq_decode":
        (tokens, heads, _), (subspaces, _, inner) = (arguments[name].shape for name in ("codes", "codebooks"))
        return {"x": ((tokens, heads, subspaces * inner), arguments["codebooks"].dtype)}
    if op == "pq_decode_attention":
        return attended(arguments["q"], lse_form)
    if op in ("paged_decode", "append_decode"):
        q = arguments["q"]
        cache = results("append", case, arguments) if op == "append_decode" else {}
        out = (*q.shape[:2], PagedInputs(case).width_of(V))
        return {"out": (out, q.dtype), "lse": lse.signature(q.shape[:2], lse_form), **cache}
    outs = arguments["outs"]
    return {"out": (outs.shape[1:], outs.dtype), "lse": lse.signature(outs.shape[1:-1], lse_form)}


def attended(q: Any, lse_form: Mapping[str, Any] = lse.OWN) -> dict[str, Signature]:
    """out and lse of queries whose heads are as wide as those of V."""
    return {"out": (q.shape, q.dtype), "lse": lse.signature(q.shape[:2], lse_form)}


def has_work(arguments: Mapping[str, Any]) -> bool:
    """Whether a call has anything to compute or move, so that a kernel must be launched."""
    if "slot_mapping" in arguments:
        return bool((arguments["slot_mapping"] >= 0).any())
    if "kv_lens" in arguments:
        return any(bool(arguments[name].any()) for name in ("kv_lens", "residual_lens") if name in arguments)
    return all(array.size for array in arguments.values() if isinstance(array, np.ndarray))
