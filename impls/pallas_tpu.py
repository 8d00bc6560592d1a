"""Pallas-TPU kernels of this repository (`impls/pallas_kernels`), compiled on a TPU, interpreted anywhere else.

The interpreter runs them with races, memory that nobody wrote and reads out of bounds made visible; a race is an error.
For a TPU they have been compiled, ahead of time; none has run on one. What Mosaic refuses is not offered there: half of
a row narrower than two tiles of 128 lanes, one slot out of a tile that holds several, float16 arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kvconform.impls.host_kernels import pq_checks
from kvconform.impls.pallas_kernels import decode, launch, layouts, merge, movement, pq
from kvconform.impls.pallas_kernels.layouts import fold, page_size

NAME = "pallas_tpu"
BACKEND = "pallas_tpu"
REQUIRES = ("jax", "ml_dtypes")
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

Cache = Mapping[str, "Handle"]

_PAGED = {"nhd", "hnd", "heads_first", "interleaved", "split_x"}
_ROW_AT_A_TIME = {"nhd", "interleaved", "packed", "token_slots"}
_UNEVEN = {"beside_hnd_diffkv", "mla_aligned"}
if not launch.COMPILED:
    _ROW_AT_A_TIME |= _PAGED | {"code_rows", "code_columns"}
_UPDATED = {"nhd", "interleaved"}
_COPIED = {"nhd", "heads_first", "packed"}
_MOVED = {"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8"}
_ROUNDED = {"float32", "bfloat16"}
_NARROW = {"float8_e4m3fn", "int8"}
_HEADS = {"num_kv_heads": {1, 2, 3}, "head_dim": {128} if launch.COMPILED else {8, 16}, "static": True}
_INDEX = {"index_dtype": {"int32"}}  # JAX without x64 has no other
_PAGES = {"page_size": {8, 16} if launch.COMPILED else {1, 2, 3, 4}, **_INDEX, **_HEADS}
_SLOTS = _PAGES | {"page_size": {1} | _PAGES["page_size"]}  # token_slots has no other

_ATTENTION = {
    "dtype": _ROUNDED,
    "group": {1, 2, 3},
    "num_splits": {1, 2, 3},
    "window": {"min": 0},
    "soft_cap": {"min": 0},
    "sinks": {"none", "drawn", "dominant"},
    "alibi_slopes": {"none", "drawn"},
    "q_lens": {"min": 1},
    "tree_mask": {"none", "drawn"},
    **_PAGES,
}

_CODES = {
    "dtype": {"uint8", "uint4"},
    "q_dtype": _ROUNDED | {"float16"},  # float32 to the kernels, and bits to the one that decodes
    "num_kv_heads": {1, 2},  # each is interpreted by itself
    "static": True,
}
_CODE_PAGES = {
    "layout": {"pq_rows", "pq_columns", "pq_heads"},
    "page_size": {6, 64} if launch.COMPILED else {1, 2, 3, 4, 6},  # 6: a page of pq_heads is three
    **_INDEX,
    **_CODES,
}

OFFERS = {
    "merge_kv": {"layout": {"fused"}, "dtype": _MOVED, **_HEADS},
    "extract_k": {"layout": {"fused"}, "dtype": _MOVED, **_HEADS},
    "extract_v": {"layout": {"fused"}, "dtype": _MOVED, **_HEADS},
    "append": {"layout": _ROW_AT_A_TIME, "dtype": _MOVED, **_SLOTS},
    "gather": {"layout": _ROW_AT_A_TIME, "dtype": _MOVED, **_SLOTS},
    "copy_pages": {"layout": _COPIED, "dtype": _MOVED, **_SLOTS},
    "paged_decode": {
        **_ATTENTION,
        "layout": _PAGED | _UNEVEN,
        "dtype": _ROUNDED | _NARROW,
        "q_dtype": {"bfloat16"},  # of narrow caches; each is a compilation
        "kv_scales": {"none", "tensor", "head", "page", "token"},
        "head_dim_v": _HEADS["head_dim"],
    },
    "append_decode": {"layout": _UPDATED, **_ATTENTION},
    "pq_encode": _CODES,
    "pq_decode": _CODES,
    "pq_append": _CODE_PAGES,
    "pq_decode_attention": {"group": {1, 2, 3}, "num_splits": {1, 2, 3}, **_CODE_PAGES},
    "merge_states": {"layout": {"parts_first"}, "dtype": _ROUNDED, "group": {1, 2, 3}, **_HEADS},
}
WHY_NOT = {
    "page_manager": "bookkeeping of the host, that no kernel takes part in: numpy_ref's",
    "pq_cache": "the object is torch_ref's, and calls pq_append and pq_decode_attention, which are tried alone",
    **dict.fromkeys(
        _PAGED - _UPDATED, "append_decode is append and paged_decode, which are tried with what it leaves out"
    ),
    "into": "a jax.Array is never written into",
    "layout": "the same kernels with other axes, compiled once more a row; records of several types are not theirs",
    "dtype": "a DMA moves whole elements; codes of less than a byte are packed into words",
    "float16": "Mosaic has no float16 arithmetic",
    "narrow": "codes of less than a byte lie only in rows that are not offered",
    "float8_e5m2": "attention over float8_e4m3fn, compiled once more",
    "sparse": "append is functional: it copies the cache, and the interpreter copies every operand",
    "index_dtype": "JAX without x64 has no int64",
    "strides": "a jax.Array has no strides",
    "table_form": "scalars are prefetched once a call, and a table of another form is one more kernel to compile a row",
}
CONVENTIONS = {
    "lse_base": "e",
    "dead": {"zero", "finite", "nan", "inf"},
    "table_padding": {"valid", "minus_one", "huge"},
    "evicted_pages": {"kept", "null", "minus_one"},
    "sm_scale_of_none": "head_dim",
    "slots_out_of_range": "drop",
    "duplicate_slots": "last",  # movement.append: one token in flight at a time
    "padding": "undefined",  # layouts._packed: rows cross whole, with zeros
    "page_moves": {"apart", "swap"},  # movement.copy_pages: from the caller's cache into a copy
    "empty_rows": "zero",
    "deterministic": True,
}
ARITHMETIC = {
    "expands_distance": True,  # pq.py, encode: |c|^2 - 2 x . c
    "dequant_format": "float32",  # decode.py, Queries.scores and _mixed: scales meet scores and weights in float32
    "qk_accumulator": "float32",  # decode.py, Queries.q and _heads: q and k are float32 before they meet, EXACT
    "table_format": None,  # pq.py, attend: `lookup` is float32 and stays so; what a one-hot matrix picks is exact
    "softmax_format": "float32",  # decode.py, Queries.scores: scores are float32 and stay so, capped and slanted too
    "p_format": None,  # decode.py, _mixed and pq.py, _attended: `weight` meets v in float32
    "sum_rounds_p": False,  # decode.py, seen: `total` sums the same float32 weights
    "normalises_first": False,  # decode.py, result: `mixed / total`, after the last page
    "pv_accumulator": "float32",  # decode.py, _unseen, and pq.py, attend: `mixed` is float32
    "partial_format": "float32",  # paged_decode below: with splits, out_dtype of the parts; of pq.attend, too
    "merge_levels": 1,  # merge.py, kernel: one sum over all parts
    "renormalises": True,  # merge.py, kernel: the weighted sum is divided by `total`
}
IN_PLACE: dict[str, str] = {}


@dataclass(frozen=True)
class Handle:
    """An array on the device as unsigned integers of its width: what moves bytes is compiled once a width.

    bits    [...]   uint8, uint16 or uint32
    dtype   what they mean
    """

    bits: jax.Array
    dtype: np.dtype[Any]


def to_device(array: np.ndarray[Any, Any]) -> Handle | jax.Array:
    """Tables, lengths and slots stay integers; everything else crosses as bits."""
    if array.dtype in (np.int32, np.int64):
        return jax.device_put(array, launch.DEVICE)
    return Handle(jax.device_put(array.view(f"uint{8 * array.itemsize}"), launch.DEVICE), array.dtype)


def to_host(handle: Handle | jax.Array) -> np.ndarray[Any, Any]:
    return np.asarray(handle.bits).view(handle.dtype) if isinstance(handle, Handle) else np.asarray(handle)


def synchronize(result: Any) -> Any:
    """Results are waited for where kernels are started (`launch.launch`)."""
    return result


def attest() -> dict[str, Any]:
    mode = "compiled" if launch.COMPILED else "interpreted"
    told = {"launches": launch.launches, "device": launch.DEVICE.device_kind, "mode": mode}
    return told | {"compilations": launch.compilations()}


def _bits(cache: Cache) -> dict[str, jax.Array]:
    return {name: field.bits for name, field in cache.items()}


def _of_heads(given: Handle | None, off: float, num_q_heads: int) -> jax.Array:
    """Bits of float32 [num_q_heads], all of one value where nothing is given."""
    made = to_device(np.full(num_q_heads, off, np.float32)) if given is None else given
    assert isinstance(made, Handle)
    return made.bits


def _every_token(num_rows: int, q_len: int) -> jax.Array:
    """Bits of a tree mask that hides nothing."""
    made = to_device(np.ones((num_rows, q_len), bool))
    assert isinstance(made, Handle)
    return made.bits


def _scales(k_scale: Handle | None, v_scale: Handle | None, shape: tuple[int, int, int]) -> jax.Array:
    """Bits of both [page, side, head, slot]: an entry for each, whoever shares it, so that one compilation serves all.

    shape   num_pages, num_kv_heads, page_size
    """
    num_pages, *of_page = shape
    made = np.ones((num_pages, 2, *of_page), np.float32)
    for side, scale in enumerate((k_scale, v_scale)):
        if scale is not None:
            numbers = to_host(scale)
            made[:, side] = numbers.swapaxes(1, 2) if numbers.ndim == 3 else numbers[..., None]
    handle = to_device(made)
    assert isinstance(handle, Handle)
    return handle.bits


def merge_kv(k: Handle, v: Handle) -> Handle:
    return Handle(launch.launch(movement.merge_kv, k.bits, v.bits), k.dtype)


def extract_k(kv: Handle) -> Handle:
    return Handle(launch.launch(movement.extract, kv.bits, half=0), kv.dtype)


def extract_v(kv: Handle) -> Handle:
    return Handle(launch.launch(movement.extract, kv.bits, half=1), kv.dtype)


def append(
    cache: Cache,
    k: Handle,
    v: Handle | None,
    slot_mapping: jax.Array,
    *,
    layout: str,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
) -> dict[str, Handle]:
    """K tells what `num_kv_heads` and `head_dim` do."""
    tokens = (k.bits,) if v is None else (k.bits, v.bits)
    written = launch.launch(movement.append, _bits(cache), tokens, slot_mapping, layout=layout)
    return {name: Handle(field, k.dtype) for name, field in written.items()}


def gather(
    cache: Cache,
    block_table: jax.Array,
    kv_lens: jax.Array,
    *,
    layout: str,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
) -> tuple[Handle, Handle | None]:
    token = tuple(size for size in (num_kv_heads, head_dim) if size is not None)
    rows = launch.launch(movement.gather, _bits(cache), block_table, kv_lens, layout=layout, token=token)
    total, dtype = int(np.sum(kv_lens)), next(iter(cache.values())).dtype
    k, *v = (Handle(side[:total], dtype) for side in rows)
    return k, v[0] if v else None


def copy_pages(cache: Cache, page_mapping: jax.Array, *, layout: str) -> dict[str, Handle]:
    if not len(page_mapping):
        return dict(cache)
    written = launch.launch(movement.copy_pages, _bits(cache), page_mapping, layout=layout)
    return {name: Handle(field, cache[name].dtype) for name, field in written.items()}


def paged_decode(
    q: Handle,
    cache: Cache,
    block_table: jax.Array,
    kv_lens: jax.Array,
    *,
    layout: str,
    sm_scale: float | None = None,
    num_splits: int = 1,
    k_scale: Handle | None = None,
    v_scale: Handle | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Handle | None = None,
    alibi_slopes: Handle | None = None,
    q_lens: jax.Array | None = None,
    tree_mask: Handle | None = None,
    head_dim: int | None = None,
    head_dim_v: int | None = None,
    page_size: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Raises ValueError unless every sequence has as many query tokens as the others: their number is compiled in.

    q and the cache tell what `head_dim` and `head_dim_v` do.
    """
    if q_lens is not None and len(set(np.asarray(q_lens).tolist())) > 1:
        raise ValueError(f"as many query tokens of each sequence, not q_lens {np.asarray(q_lens)}")
    num_rows, num_q_heads, _ = q.bits.shape
    dtype = next(iter(cache.values())).dtype
    scales = []
    if dtype.itemsize == 1:
        num_pages, slots, num_kv_heads = layouts.sizes(layout, _bits(cache))
        scales = [_scales(k_scale, v_scale, (num_pages, num_kv_heads, page_size or slots))]
    parts = launch.launch(
        decode.paged_decode,
        q.bits,
        _bits(cache),
        block_table,
        kv_lens,
        q.bits.shape[2] ** -0.5 if sm_scale is None else sm_scale,
        decode.NO_CAP if soft_cap is None else soft_cap,
        decode.ALL_KEYS if window is None else min(window, decode.ALL_KEYS),
        _of_heads(sinks, decode.NO_SINK, num_q_heads),
        _of_heads(alibi_slopes, decode.NO_SLOPE, num_q_heads),
        _every_token(num_rows, num_rows // max(1, len(kv_lens))) if tree_mask is None else tree_mask.bits,
        *scales,
        layout=layout,
        num_splits=num_splits,
        page_size=page_size,
        dtype=dtype,
        q_dtype=q.dtype,
        out_dtype=q.dtype if num_splits == 1 else np.dtype(np.float32),
    )
    if num_splits == 1:
        out, lse = parts
        return out[0], lse[0]
    return launch.launch(merge.merge_states, *parts, dtype=np.dtype(np.float32), out_dtype=q.dtype)


def append_decode(
    q: Handle,
    k: Handle,
    v: Handle,
    cache: Cache,
    block_table: jax.Array,
    kv_lens: jax.Array,
    *,
    layout: str,
    sm_scale: float | None = None,
    q_lens: jax.Array | None = None,
    **options: Any,
) -> tuple[jax.Array, jax.Array, dict[str, Handle]]:
    """append of the newest tokens, then paged_decode over what that leaves.

    Tokens are filled up to as many as the table has room for, without slots: append is compiled once whatever is new.
    """
    slots = _newest_slots(block_table, kv_lens, q_lens, page_size(layout, fold(layout, _bits(cache))))
    more = [(0, block_table.size * page_size(layout, fold(layout, _bits(cache))) - len(slots))]
    k, v = (Handle(jnp.pad(side.bits, [*more, (0, 0), (0, 0)]), side.dtype) for side in (k, v))
    mapping = to_device(np.pad(slots, more, constant_values=-1))
    assert isinstance(mapping, jax.Array)
    updated = append(cache, k, v, mapping, layout=layout)
    attention = {"layout": layout, "sm_scale": sm_scale, "q_lens": q_lens, **options}
    return *paged_decode(q, updated, block_table, kv_lens, **attention), updated


def _newest_slots(
    block_table: jax.Array, kv_lens: jax.Array, q_lens: jax.Array | None, size: int
) -> np.ndarray[Any, Any]:
    """int32 [num_q_rows] slots of the newest tokens of each sequence, oldest first."""
    lens = np.ones(len(kv_lens), np.int32) if q_lens is None else np.asarray(q_lens)
    seq = np.repeat(np.arange(len(lens)), lens)
    position = np.asarray(kv_lens)[seq] - np.cumsum(lens)[seq] + np.arange(len(seq))
    return (np.asarray(block_table)[seq, position // size] * size + position % size).astype(np.int32)


def merge_states(outs: Handle, lses: Handle) -> tuple[jax.Array, jax.Array]:
    return launch.launch(merge.merge_states, outs.bits, lses.bits, dtype=outs.dtype, out_dtype=outs.dtype)


def _numbers(*handles: Handle) -> jax.Array:
    """Floating numbers of one shape as float32, one array after another along a new first axis."""
    return jnp.stack([lax.bitcast_convert_type(one.bits, one.dtype).astype(jnp.float32) for one in handles])


def _codes_of(sides: tuple[Handle, ...], books: tuple[Handle, ...], dtype: str) -> jax.Array:
    """Codes one a byte [side, token, head, subspace] of vectors [token, head, head_dim] of each side."""
    shape = (*sides[0].bits.shape[:2], pq.num_subspaces(sides[0].bits.shape[-1], books[0].bits, dtype))
    if not sides[0].bits.size:
        return jnp.zeros((len(sides), *shape), jnp.uint8)
    x = _numbers(*sides).reshape(len(sides), -1, *books[0].bits.shape[::2])
    return launch.launch(pq.encode, x, _numbers(*books)).reshape(len(sides), *shape)


def _values(*handles: Handle | jax.Array) -> tuple[np.ndarray[Any, Any], ...]:
    """Arrays as they are looked at before a kernel starts: nothing here is traced. On a TPU this waits for it."""
    return tuple(map(to_host, handles))


def pq_encode(x: Handle, codebooks: Handle, *, dtype: str) -> Handle:
    pq.num_subspaces(x.bits.shape[-1], codebooks.bits, dtype)
    pq_checks.require_nearest("x", *_values(x, codebooks))
    return Handle(pq.packed(_codes_of((x,), (codebooks,), dtype)[0], dtype), np.dtype(np.uint8))


def pq_decode(codes: Handle, codebooks: Handle, *, dtype: str) -> Handle:
    single = pq.unpacked(codes.bits, dtype)
    shape = (*single.shape[:-1], single.shape[-1] * codebooks.bits.shape[2])
    pq.num_subspaces(shape[-1], codebooks.bits, dtype)
    if not single.size:
        return Handle(jnp.zeros(shape, codebooks.bits.dtype), codebooks.dtype)
    found = launch.launch(pq.decode, single.reshape(-1, single.shape[-1]), codebooks.bits)
    return Handle(found.reshape(shape), codebooks.dtype)


def _pools(cache: Cache, *sizes: Any) -> dict[str, jax.Array]:
    """The bits of pools of codes; integers of other types are no handles of theirs."""
    for name, pool in cache.items():
        pq_checks.require_bytes(f"codes of {name}", pool)
    pools = _bits(cache)
    pq_checks.require_pools(pools, *sizes)
    return pools


def pq_append(
    cache: Cache,
    k: Handle,
    v: Handle,
    k_codebooks: Handle,
    v_codebooks: Handle,
    slot_mapping: jax.Array,
    *,
    layout: str,
    dtype: str,
    page_size: int,
    num_subspaces: int,
) -> dict[str, Handle]:
    pools = _pools(cache, layout, dtype, page_size, num_subspaces)
    for rows, book in ((k, k_codebooks), (v, v_codebooks)):
        pq.num_subspaces(rows.bits.shape[-1], book.bits, dtype)
    given, books = _values(k, v), _values(k_codebooks, v_codebooks)
    pq_checks.require_append(given, books, to_host(slot_mapping), len(pools["k"]) * page_size)
    codes = _codes_of((k, v), (k_codebooks, v_codebooks), dtype)
    if not slot_mapping.size:
        return dict(cache)
    of_heads = jnp.swapaxes(codes, 1, 2).reshape(2, -1, codes.shape[-1]), slot_mapping.T.reshape(-1)  # page after page
    written = launch.launch(pq.write, pools, *of_heads, layout=layout, dtype=dtype)
    return {name: Handle(pool, cache[name].dtype) for name, pool in written.items()}


def pq_decode_attention(
    q: Handle,
    cache: Cache,
    k_codebooks: Handle,
    v_codebooks: Handle,
    page_ids: jax.Array,
    kv_lens: jax.Array,
    residual_k: Handle,
    residual_v: Handle,
    residual_lens: jax.Array,
    *,
    layout: str,
    dtype: str,
    page_size: int,
    num_subspaces: int,
    sm_scale: float,
    num_splits: int = 1,
) -> tuple[jax.Array, jax.Array]:
    pools = _pools(cache, layout, dtype, page_size, num_subspaces)
    pq_checks.require_splits(num_splits)
    room = {"page_size": page_size, "num_pages": len(pools["k"]), "capacity": residual_k.bits.shape[1]}
    pq_checks.require_attention(*_values(page_ids, kv_lens, residual_lens), **room)
    pq.num_subspaces(q.bits.shape[-1], k_codebooks.bits, dtype)
    parts = launch.launch(
        pq.attend,
        _numbers(q)[0],
        pools,
        _numbers(k_codebooks, v_codebooks),
        page_ids,
        kv_lens,
        _numbers(residual_k, residual_v),
        residual_lens,
        sm_scale,
        layout=layout,
        dtype=dtype,
        num_splits=num_splits,
    )
    out, lse = launch.launch(merge.merge_states, *parts, dtype=np.dtype(np.float32), out_dtype=np.dtype(np.float32))
    return out.astype(q.dtype), lse
