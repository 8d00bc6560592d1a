"""The reference in torch: whole batches as tensors, attention in two passes, on a GPU where torch sees one.

A second reading beside `numpy_ref`; the two share nothing. Bytes move as integers of their width, so that no NaN meets
a float instruction. Arithmetic is products and sums of float32 tensors and no matrix product, whose precision (TF32,
bfloat16) is a setting of the process that anybody may change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from kvconform.impls.torch_kernels import handles

NAME = "torch_ref"
BACKEND = "torch"
REQUIRES = ("torch", "ml_dtypes")
ENV = {"OMP_NUM_THREADS": "1"}  # drawn cases are small: waking a second thread costs more than it does

_MOVED = {"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8"}
_PAGED = {"nhd", "hnd", "heads_first", "interleaved", "split_x", "bshd", "bhsd"}
_CODES = {"code_rows", "code_columns"}
_ROUNDED = {"float32", "float16", "bfloat16"}
_ANY = {"strides": {"contiguous", "outer", "all"}}

OFFERS = {
    "merge_kv": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_k": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "extract_v": {"layout": {"fused"}, "dtype": _MOVED, **_ANY},
    "append": {"layout": _PAGED | _CODES, "dtype": _MOVED, **_ANY},
    "gather": {"layout": _PAGED | _CODES, "dtype": _MOVED, **_ANY},
    "paged_decode": {"layout": _PAGED, "dtype": _ROUNDED, "num_splits": range(1, 65), **_ANY},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, **_ANY},
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan"},
    "table_padding": {"valid", "minus_one"},
    "empty_rows": "zero",
    "deterministic": True,
}
ARITHMETIC = {
    "qk_accumulator": "float32",  # paged_decode: q and k are float32 before they meet
    "softmax_format": "float32",  # _mean: score, weight and total are float32
    "tile": 2**31,  # _mean: the maximum is known before the first exp, and never updated
    "normalises_first": True,  # _mean: `weight / total` meets the values
    "pv_accumulator": "float32",  # _mean: so do the products and their sum
    "merge_levels": 1,  # paged_decode: one _mean over all parts
    "renormalises": True,  # _mean: the weights of parts, too, are divided by their sum
}
IN_PLACE = {"append": "cache"}

Cache = dict[str, Tensor]

to_device, to_host, synchronize = handles.to_device, handles.to_host, handles.synchronize
launches = 0


def attest() -> dict[str, Any]:
    mode = "compiled" if handles.DEVICE.type == "cuda" else "eager"
    return {"launches": launches, "device": handles.device_name(), "mode": mode}


def _kernel(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Count each call that torch is asked to compute."""

    @wraps(operation)
    def launch(*args: Any, **kwargs: Any) -> Any:
        global launches
        launches += 1
        return operation(*args, **kwargs)

    return launch


# --- bytes


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers of the same width."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.itemsize])


@_kernel
def merge_kv(k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([_bits(k), _bits(v)], dim=2).flatten(1, 2).view(k.dtype)


def _extract(kv: Tensor, side: int) -> Tensor:
    return _bits(kv).unflatten(1, (-1, 2)).select(2, side).clone().view(kv.dtype)


@_kernel
def extract_k(kv: Tensor) -> Tensor:
    return _extract(kv, 0)


@_kernel
def extract_v(kv: Tensor) -> Tensor:
    return _extract(kv, 1)


_INTO_PLACE = {  # which axis of a field to move where, for page and slot to come first
    "nhd": (1, 1),
    "bshd": (1, 1),
    "hnd": (2, 1),
    "bhsd": (2, 1),
    "heads_first": (0, 2),
    "split_x": (3, 1),  # of K, page head chunk slot x, as of V, page head dim slot
    "code_rows": (1, 1),
    "code_columns": (2, 1),
}


def _sides(cache: Cache, layout: str) -> tuple[Tensor, ...]:
    """Views [page, slot, *token axes] of K and V, or of codes alone; dim stays cut where the layout cuts it."""
    if layout == "interleaved":
        return cache["kv"].unflatten(2, (-1, 2)).unbind(3)
    fields = ("codes",) if "codes" in cache else ("k", "v")
    return tuple(cache[name].movedim(*_INTO_PLACE[layout]) for name in fields)


@_kernel
def append(cache: Cache, k: Tensor, v: Tensor | None, slot_mapping: Tensor, *, layout: str) -> Cache:
    live = slot_mapping >= 0
    slots = slot_mapping[live].long()
    for view, rows in zip(_sides(cache, layout), (k, v), strict=False):  # codes have no V
        page_size, token_shape = view.shape[1], view.shape[2:]
        at = slots // page_size, slots % page_size
        _bits(view).index_put_(at, _bits(rows)[live].reshape(-1, *token_shape))
    return cache


def _rows(view: Tensor, block_table: Tensor, position: Tensor) -> Tensor:
    """[num_seqs, *position, *token axes] of one side; past a sequence's end, whatever lies where the table points."""
    page_size, num_columns = view.shape[1], block_table.shape[1]
    page = block_table[:, (position // page_size).clamp(max=num_columns - 1)]
    rows = _bits(view)[page.long().clamp(min=0), position % page_size].view(view.dtype)
    return rows.flatten(-2) if view.ndim == 5 else rows


def _positions(view: Tensor, block_table: Tensor, num_parts: int) -> Tensor:
    """[num_parts, keys a part]: every position that the table has room for, the last part filled up."""
    room = block_table.shape[1] * view.shape[1]
    keys = -(-room // num_parts)
    return torch.arange(num_parts * keys, device=view.device).view(num_parts, keys)


@_kernel
def gather(cache: Cache, block_table: Tensor, kv_lens: Tensor, *, layout: str) -> tuple[Tensor, Tensor | None]:
    sides = _sides(cache, layout)
    position = _positions(sides[0], block_table, 1)[0]
    live = position < kv_lens[:, None]
    k, *v = (_rows(view, block_table, position)[live] for view in sides)
    return k, *(v or [None])


# --- attention


def _mean(score: Tensor, value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean of the values under softmax(score) along an axis, and log-sum-exp; 0 and -inf where every score is -inf.

    score [...] and value [..., dim] broadcast; what the value of a score of -inf holds does not matter, NaN included.
    """
    top = score.amax(axis, keepdim=True).clamp(min=torch.finfo(score.dtype).min)  # finite, for -inf - top to be -inf
    weight = (score - top).exp()
    total = weight.sum(axis, keepdim=True)  # at least exp(0), or 0
    share = (weight / total.clamp(min=1)).unsqueeze(-1)
    mean = (share * value).masked_fill_(score.isneginf().unsqueeze(-1), 0).sum(axis)
    return mean, (top + total.log()).squeeze(axis)


@_kernel
def paged_decode(
    q: Tensor, cache: Cache, block_table: Tensor, kv_lens: Tensor, *, layout: str, sm_scale: float, num_splits: int = 1
) -> tuple[Tensor, Tensor]:
    sides = _sides(cache, layout)
    position = _positions(sides[0], block_table, num_splits)
    k, v = (_rows(view, block_table, position).float().unsqueeze(-2) for view in sides)  # seq part key head 1 dim
    grouped = q.float().unflatten(1, (k.shape[3], -1))  # seq head group dim
    score = (grouped[:, None, None] * k).sum(-1) * sm_scale  # seq part key head group
    dead = position >= kv_lens[:, None, None]
    score = score.masked_fill_(dead[..., None, None], -torch.inf)
    outs, lses = _mean(score, v, axis=2)
    out, lse = _mean(lses, outs, axis=1)
    return out.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)


@_kernel
def merge_states(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = _mean(lses, outs.float(), axis=0)
    return out.to(outs.dtype), lse
