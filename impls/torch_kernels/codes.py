"""Product-quantised caches of torch tensors: where a code lies, and what of a call's arguments is refused.

Sizes and types are looked at wherever a tensor is, values only on the host: a GPU is not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kvconform.impls.host_kernels import pq_checks

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int32, torch.int64)


@dataclass(frozen=True)
class Codes:
    """K or V of a cache.

    tensor           uint8 [page, slot, subspace], in the cache's own memory
    bits             of a code
    by_slot          whether neighbouring slots share a byte; else neighbouring subspaces do
    page_size        slots of a page
    num_subspaces    of a head
    """

    tensor: Tensor
    bits: int
    by_slot: bool
    page_size: int
    num_subspaces: int

    @property
    def num_slots(self) -> int:
        """Of all pages."""
        return self.tensor.shape[0] * self.page_size

    @property
    def shared(self) -> tuple[int, int]:
        """How many neighbouring slots, and how many neighbouring subspaces, are in one byte."""
        in_byte = 8 // self.bits
        return (in_byte, 1) if self.by_slot else (1, in_byte)


_AXES = {"pq_rows": ("rows", "rows"), "pq_columns": ("rows", "columns"), "pq_heads": ("rows", "rows")}
"""Layout -> how the codes of K and of V lie in a page: a row holds a slot, a column does."""


def sides(
    cache: Mapping[str, Tensor], layout: str, dtype: str, page_size: int, num_subspaces: int
) -> tuple[Codes, Codes]:
    """K and V of a cache. Raises ValueError where it is not what it is said to be."""
    if layout not in _AXES:
        raise ValueError(f"layout is {layout!r}, not one of {', '.join(_AXES)}")
    if page_size < 1:
        raise ValueError(f"page_size is {page_size}, not at least 1")
    k, v = (
        _side(name, cache[name], axes == "columns", dtype, page_size, num_subspaces)
        for name, axes in zip("kv", _AXES[layout], strict=True)
    )
    if k.tensor.shape[0] != v.tensor.shape[0]:
        raise ValueError(f"K has {k.tensor.shape[0]} pages and V has {v.tensor.shape[0]}")
    return k, v


def _side(name: str, pool: Tensor, by_columns: bool, dtype: str, page_size: int, num_subspaces: int) -> Codes:
    in_byte = 8 // bits_of(dtype)
    sizes = (num_subspaces, page_size) if by_columns else (page_size, num_subspaces)
    want = (sizes[0], -(-sizes[1] // in_byte))
    if pool.dtype != torch.uint8 or pool.ndim != 3 or tuple(pool.shape[1:]) != want:
        raise ValueError(f"cache {name} is {shown(pool)}, not uint8[num_pages, {want[0]}, {want[1]}]")
    tensor = pool.transpose(1, 2) if by_columns else pool
    return Codes(tensor, 8 // in_byte, by_columns, page_size, num_subspaces)


def rows_of(name: str, codes: Tensor, num_subspaces: int, dtype: str) -> Codes:
    """Codes [num_tokens, num_kv_heads, subspace] as a cache whose pages are tokens, and whose slots are heads."""
    want = -(-num_subspaces * bits_of(dtype) // 8)
    if codes.dtype != torch.uint8 or codes.ndim != 3 or codes.shape[2] != want:
        raise ValueError(f"{name} is {shown(codes)}, not uint8[num_tokens, num_kv_heads, {want}]")
    return Codes(codes, bits_of(dtype), False, codes.shape[1], num_subspaces)


def packed_shape(rows: Tensor, codebooks: Tensor, dtype: str) -> tuple[int, int, int]:
    """Of the codes of rows [num_tokens, num_kv_heads, head_dim]."""
    return rows.shape[0], rows.shape[1], -(-len(codebooks) * bits_of(dtype) // 8)


def places(
    side: Codes, pages: Tensor, slots: Tensor, subspaces: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Indices of the bytes that codes lie in, and by how many bits they are shifted; all arguments broadcast."""
    slots_shared, subspaces_shared = side.shared
    at = pages, slots // slots_shared, subspaces // subspaces_shared
    return at, (slots % slots_shared + subspaces % subspaces_shared) * side.bits


def read(side: Codes, pages: Tensor, slots: Tensor) -> Tensor:
    """int64 codes [*pages, num_subspaces]."""
    subspaces = torch.arange(side.num_subspaces, device=slots.device)
    at, shift = places(side, pages[..., None], slots[..., None], subspaces)
    return (side.tensor[at].long() >> shift) & ((1 << side.bits) - 1)


def live(page_ids: Tensor, kv_lens: Tensor, position: Tensor, page_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pages and slots [seq, head, *position], and whether a token is there; if not, page 0, whatever its entry is."""
    lead = (..., *(None for _ in position.shape))
    is_live = (position < kv_lens[lead])[:, None].expand(*page_ids.shape[:2], *position.shape)
    columns = (position // page_size).clamp(max=page_ids.shape[2] - 1)
    pages = page_ids[:, :, columns].long().where(is_live, 0)
    return pages, (position % page_size).expand_as(pages), is_live


def bits_of(dtype: str) -> int:
    """Of a code. Raises ValueError where there is no such code."""
    if dtype not in pq_checks.BITS:
        raise ValueError(f"codes of {dtype!r}: they are {' or '.join(pq_checks.BITS)}")
    return pq_checks.BITS[dtype]


def shown(tensor: Tensor) -> str:
    """A tensor's type and shape, for people."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


# --- what is refused


def require_codebooks(name: str, codebooks: Tensor, dtype: str, num_subspaces: int | None = None) -> None:
    """Codebooks [num_subspaces, num_centroids, sub_dim] that codes of this type can tell apart."""
    if codebooks.ndim != 3 or codebooks.dtype not in _FLOATS or 0 in codebooks.shape:
        raise ValueError(f"{name} is {shown(codebooks)}, not floats[num_subspaces, num_centroids, sub_dim]")
    if num_subspaces is not None and len(codebooks) != num_subspaces:
        raise ValueError(f"{name} has {len(codebooks)} subspaces, not {num_subspaces}")
    if codebooks.shape[1] > 1 << bits_of(dtype):
        raise ValueError(f"{name} has {codebooks.shape[1]} centroids, more than codes of {dtype} can tell apart")


def require_rows(name: str, rows: Tensor, codebooks: Tensor, num_axes: int = 3) -> None:
    """Rows [..., head_dim] of the type and width of codebooks."""
    num_subspaces, _, sub_dim = codebooks.shape
    if rows.dtype != codebooks.dtype:
        raise ValueError(f"{name} is {shown(rows)}, and its codebooks are {shown(codebooks)}: of two types")
    if rows.ndim != num_axes:
        raise ValueError(f"{name} is {shown(rows)}, not of {num_axes} axes")
    if rows.shape[-1] != num_subspaces * sub_dim:
        raise ValueError(f"{name} has head_dim {rows.shape[-1]}, not {num_subspaces} subspaces of {sub_dim}")


def require_nearest(name: str, rows: Tensor, codebooks: Tensor) -> None:
    """A nearest centroid for each row [num_tokens, num_kv_heads, head_dim]."""
    if on_host(rows, codebooks):
        pq_checks.require_nearest(name, numbers(rows), numbers(codebooks))


def require_indices(what: str, side: Codes, codebooks: Tensor, at: tuple[Tensor, Tensor], is_live: Tensor) -> None:
    """Codes that are indices of centroids, in these pages and slots; what is not live may be anything."""
    num_centroids = codebooks.shape[1]
    if not on_host(side.tensor, codebooks, *at) or num_centroids == 1 << side.bits:
        return
    pq_checks.require_codes(what, read(side, *at).numpy(), num_centroids, is_live.numpy())


def require_decode(side: Codes, codebooks: Tensor) -> None:
    """Codes of a cache whose pages are tokens, all of them live."""
    tokens, heads = torch.meshgrid(*(torch.arange(n) for n in side.tensor.shape[:2]), indexing="ij")
    require_indices("codes", side, codebooks, (tokens, heads), torch.ones_like(tokens, dtype=torch.bool))


def require_append(
    both: tuple[Codes, Codes],
    given: tuple[Tensor, Tensor],
    codebooks: tuple[Tensor, Tensor],
    slot_mapping: Tensor,
    dtype: str,
) -> Tensor:
    """Arguments of append that fit each other; which tokens and heads have a slot, bool [num_tokens, num_kv_heads]."""
    for name, side, rows, books in zip("kv", both, given, codebooks, strict=True):
        require_codebooks(f"{name}_codebooks", books, dtype, side.num_subspaces)
        require_rows(name, rows, books)
        if slot_mapping.dtype not in _INTEGERS or slot_mapping.shape != rows.shape[:2]:
            raise ValueError(
                f"slot_mapping is {shown(slot_mapping)}, not integers{list(rows.shape[:2])} as {name} asks"
            )
    num_slots = both[0].num_slots
    if on_host(slot_mapping, *given, *codebooks):
        sides = (tuple(numbers(one) for one in both) for both in (given, codebooks))
        pq_checks.require_append(*sides, slot_mapping.numpy(), num_slots)
    return (slot_mapping >= 0) & (slot_mapping < num_slots)


def on_host(*tensors: Tensor) -> bool:
    """Whether the values of all of these can be looked at without waiting for a GPU."""
    return all(tensor.device.type == "cpu" for tensor in tensors)


def numbers(tensor: Tensor) -> np.ndarray[Any, Any]:
    """What a tensor on the host holds, exactly; numpy alone has no bfloat16."""
    return tensor.detach().float().numpy()


def require_attention(
    q: Tensor,
    pools: tuple[Codes, Codes],
    k_codebooks: Tensor,
    v_codebooks: Tensor,
    page_ids: Tensor,
    kv_lens: Tensor,
    residual: tuple[Tensor, Tensor],
    residual_lens: Tensor,
    num_splits: int,
) -> None:
    """Arguments of attention that fit each other."""
    require_rows("q", q, k_codebooks)
    for name, rows, codebooks in zip("kv", residual, (k_codebooks, v_codebooks), strict=True):
        require_rows(f"residual_{name}", rows, codebooks, num_axes=4)
    if k_codebooks.dtype != v_codebooks.dtype:
        raise ValueError(f"k_codebooks are {shown(k_codebooks)} and v_codebooks {shown(v_codebooks)}: of two types")
    num_seqs, (_, capacity, num_kv_heads, _) = len(q), residual[0].shape
    if num_kv_heads == 0 or q.shape[1] % num_kv_heads:
        raise ValueError(f"{q.shape[1]} q heads do not fall into {num_kv_heads} groups, one of each kv head")
    for name, tensor, want in (
        ("residual_k", residual[0], [num_seqs, capacity, num_kv_heads, q.shape[2]]),
        ("residual_v", residual[1], [num_seqs, capacity, num_kv_heads, q.shape[2]]),
        ("page_ids", page_ids, [num_seqs, num_kv_heads, *page_ids.shape[2:3]]),
        ("kv_lens", kv_lens, [num_seqs]),
        ("residual_lens", residual_lens, [num_seqs]),
    ):
        if list(tensor.shape) != want:
            raise ValueError(f"{name} is {shown(tensor)}, and the rest of the call asks for {want}")
    for name, tensor in (("page_ids", page_ids), ("kv_lens", kv_lens), ("residual_lens", residual_lens)):
        if tensor.dtype not in _INTEGERS:
            raise ValueError(f"{name} is {shown(tensor)}, not int32 or int64")
    pq_checks.require_splits(num_splits)
    if on_host(page_ids, kv_lens, residual_lens):
        told = (one.numpy() for one in (page_ids, kv_lens, residual_lens))
        room = {"page_size": pools[0].page_size, "num_pages": len(pools[0].tensor), "capacity": capacity}
        pq_checks.require_attention(*told, **room)
        pages, slots, is_live = live(page_ids, kv_lens, torch.arange(max([0, *kv_lens.tolist()])), pools[0].page_size)
        require_indices("live codes of K", pools[0], k_codebooks, (pages, slots), is_live)
        require_indices("live codes of V", pools[1], v_codebooks, (pages, slots), is_live)
