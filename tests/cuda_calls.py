"""Calls of the `cuda` adapter from numpy to numpy, and data for them: what the tests of these kernels share."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvconform.impls import cuda
from kvconform.impls.cuda_kernels import build
from kvconform.impls.cuda_kernels.pages import LINES, UNEVEN
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.storage import wrap
from kvconform.specs.trees import ancestry

Array = np.ndarray[Any, Any]

ROUNDED = sorted(cuda.ROUNDED)
NARROW = sorted(cuda.NARROW)
PAGES = ("nhd", "hnd", "heads_first", "interleaved", "split_x")
CODES = ("code_rows", "code_columns")
FURTHER = sorted(set(LINES) - {*PAGES, *CODES})
"""Rows that are judged here by what `numpy_ref` makes of the same arguments; the others by transposition."""

PAGE_SIZE, NUM_KV_HEADS, GROUP, HEAD_DIM, NUM_PAGES = 4, 2, 2, 16, 11
KV_LENS = (9, 0, 12, 1)
TABLE = np.array([[7, 0, 3], [-1, -1, -1], [10, 2, 5], [4, -1, -1]], np.int32)
SLOTS, SLOTS_OF_V = np.array([[43, -1, 0, 17, 8], [5, 30, -1, 2, 40]], np.int32)
Q_LENS = (3, 1, 2, 2)
"""Query tokens of each of KV_LENS; one of the last sequence's is older than its only key, and sees none."""
PARENTS = ((0, 0, 0), (0,), (0, 0), (0, 0))
"""What the query tokens of each sequence hang on where they are a tree."""
SWAPS = np.array([[1, 2], [2, 1], [0, 5], [0, 9]], np.int32)


def call(operation: str, *args: Any, strides: str = "contiguous", **keywords: Any) -> Any:
    """An operation of the adapter from numpy to numpy; `strides` as in a Case."""

    def there(leaf: Any) -> Any:
        if isinstance(leaf, dict):
            return {name: there(value) for name, value in leaf.items()}
        if leaf is None:
            return None
        storage, slices = wrap(leaf, strides)
        return cuda.to_device(storage)[slices]

    def back(leaf: Any) -> Any:
        if isinstance(leaf, dict):
            return {name: back(value) for name, value in leaf.items()}
        if isinstance(leaf, tuple):
            return tuple(map(back, leaf))
        return leaf if leaf is None else cuda.to_host(leaf)

    told = {name: there(told) if isinstance(told, np.ndarray) else told for name, told in keywords.items()}
    return back(getattr(cuda, operation)(*map(there, args), **told))


def bits(array: Array) -> Array:
    """The bytes of an array, the last axis split into them."""
    return np.ascontiguousarray(array)[..., None].view(np.uint8)


def random_bits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Every bit drawn: NaN payloads, subnormals, both zeros."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, DTYPES[dtype].itemsize), np.uint8).view(DTYPES[dtype])[..., 0]


def field_shapes(layout: str, dtype: str) -> dict[str, tuple[int, ...]]:
    pages, slots, heads, dims = NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM
    x = 16 // DTYPES[dtype].itemsize
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "nhd": dict.fromkeys("kv", (pages, slots, heads, dims)),
        "hnd": dict.fromkeys("kv", (pages, heads, slots, dims)),
        "heads_first": dict.fromkeys("kv", (heads, pages, slots, dims)),
        "interleaved": {"kv": (pages, slots, 2 * heads, dims)},
        "split_x": {"k": (pages, heads, dims // x, slots, x), "v": (pages, heads, dims, slots)},
        "code_rows": {"codes": (pages, slots, dims)},
        "code_columns": {"codes": (pages, dims, slots)},
    }
    return shapes[layout]


def sides(cache: dict[str, Array], layout: str) -> list[Array]:
    """K and V of a cache as [page, slot, head, dim], by transposition; codes as [page, slot, subspace]."""
    if layout == "nhd":
        return [cache["k"], cache["v"]]
    if layout == "hnd":
        return [cache[name].transpose(0, 2, 1, 3) for name in "kv"]
    if layout == "heads_first":
        return [cache[name].transpose(1, 2, 0, 3) for name in "kv"]
    if layout == "interleaved":
        return [cache["kv"][:, :, 0::2], cache["kv"][:, :, 1::2]]
    if layout == "split_x":
        k = cache["k"].transpose(0, 3, 1, 2, 4)
        return [k.reshape(*k.shape[:3], -1), cache["v"].transpose(0, 3, 1, 2)]
    return [cache["codes"] if layout == "code_rows" else cache["codes"].transpose(0, 2, 1)]


def packed(k: Array, v: Array, layout: str) -> dict[str, Array]:
    """A cache from K and V [page, slot, head, dim]: `sides`, undone."""
    if layout == "interleaved":
        return {"kv": np.stack([k, v], 3).reshape(*k.shape[:2], -1, k.shape[3])}
    if layout == "split_x":
        chunks = k.reshape(*k.shape[:3], -1, 16 // k.dtype.itemsize)
        return {"k": chunks.transpose(0, 2, 3, 1, 4).copy(), "v": v.transpose(0, 2, 3, 1).copy()}
    order = {"nhd": (0, 1, 2, 3), "hnd": (0, 2, 1, 3), "heads_first": (2, 0, 1, 3)}[layout]
    return {"k": k.transpose(order).copy(), "v": v.transpose(order).copy()}


def random_cache(layout: str, dtype: str) -> dict[str, Array]:
    shapes = field_shapes(layout, dtype).items()
    return {name: random_bits(shape, dtype, seed) for seed, (name, shape) in enumerate(shapes)}


def moving(layout: str, dtype: str) -> tuple[dict[str, tuple[Any, ...]], dict[str, int]]:
    """Arguments of each operation that moves data, on a cache of a FURTHER row, and what its arrays do not tell."""
    row = LAYOUTS[layout]
    known = {"page": NUM_PAGES, "head": NUM_KV_HEADS, "dim": HEAD_DIM, "subspace": HEAD_DIM, **row.fixed}
    slots = [row.fixed["slot"]] if "slot" in row.fixed else [max(KV_LENS)] if row.contiguous else [PAGE_SIZE, 16]
    sizes = next(one for one in ({**known, "slot": slot} for slot in slots) if row.admits(one, dtype))
    cache = {name: random_bits(row.shape(name, sizes, dtype), dtype, seed) for seed, name in enumerate(row.buffers)}
    tokens = [random_bits((len(SLOTS), *row.token_shape(part, sizes, dtype)), dtype, 8) for part in row.parts]
    table, mapping = TABLE[:, :1] if row.contiguous else TABLE, SLOTS
    if row.pairs_pages:
        table, mapping = np.stack([table, NUM_PAGES - 1 - table], 1), np.stack([SLOTS, SLOTS_OF_V])
    lens = np.minimum(np.array(KV_LENS, np.int32), table.shape[-1] * sizes["slot"])
    keywords = {"head": "num_kv_heads", "dim": "head_dim", "slot": "page_size"}
    told = {name: sizes[axis] for axis, name in keywords.items() if axis in row.hidden}
    moves = {"append": (cache, *tokens, *[None] * (2 - len(tokens)), mapping), "gather": (cache, table, lens)}
    return moves, told


def live(seq: int) -> tuple[Array, Array]:
    """Pages and slots of a sequence's tokens, in order."""
    position = np.arange(KV_LENS[seq])
    return TABLE[seq, position // PAGE_SIZE], position % PAGE_SIZE


def decode(
    layout: str,
    dtype: str,
    k: Array,
    v: Array,
    q: Array,
    num_splits: int,
    sm_scale: float = 1.0,
    index: type[Any] = np.int32,
    strides: str = "contiguous",
    table: Array = TABLE,
    q_dtype: str = "",
    **features: Any,
) -> tuple[Array, Array]:
    """paged_decode of K and V [page, slot, head, dim]; `out` widened to float32. q is of `q_dtype`, or the cache's."""
    cache = packed(k.astype(DTYPES[dtype]), v.astype(DTYPES[dtype]), layout)
    table, lens = table.astype(index), np.array(KV_LENS, index)
    keywords = {"layout": layout, "sm_scale": sm_scale, "num_splits": num_splits, "strides": strides, **features}
    out, lse = call("paged_decode", q.astype(DTYPES[q_dtype or dtype]), cache, table, lens, **keywords)
    return out.astype(np.float32), lse


def pages_of(fill: float) -> Array:
    return np.full((NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM), fill, np.float32)


def own_values() -> Array:
    """[page, slot, head, dim]: small integers that say where they came from."""
    page, slot, head, dim = np.indices((NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM))
    return np.asarray(page * 8 + slot * 2 + head + dim % 3, np.float32)


def tree_mask(parents: Sequence[Sequence[int]]) -> Array:
    """bool [num_q_rows, longest]: of each sequence's tree the ancestors; True in columns that are no token's."""
    longest = max(map(len, parents))
    rows = [np.pad(ancestry(np.array(of)), ((0, 0), (0, longest - len(of))), constant_values=True) for of in parents]
    return np.concatenate(rows)


def queries(fill: float, num_rows: int = len(KV_LENS)) -> Array:
    return np.full((num_rows, NUM_KV_HEADS * GROUP, HEAD_DIM), fill, np.float32)


def every_feature(index: type[Any] = np.int32) -> dict[str, Any]:
    """All features of paged_decode at once, for sum(Q_LENS) query rows."""
    sinks, slopes = np.array([[0.5, -1, 2, 0], [0.5, 0.25, 0.125, 0.0625]], np.float32)
    return {
        "window": 10,  # more than a tile
        "soft_cap": 2.0,
        "sinks": sinks,
        "alibi_slopes": slopes,
        "q_lens": np.array(Q_LENS, index),
        "tree_mask": tree_mask(PARENTS),
    }


def every_movement(index: type[Any] = np.int32, strides: str = "contiguous") -> list[Array]:
    """Results of each operation that moves data, on each layout it knows, with elements of each size."""
    results: list[Any] = []
    table, lens, slots, swaps = (np.array(a, index) for a in (TABLE, KV_LENS, SLOTS, SWAPS))
    for dtype in ("float32", "bfloat16", "uint8"):
        k, v = (random_bits((5, NUM_KV_HEADS, HEAD_DIM), dtype, seed) for seed in (1, 2))
        kv = call("merge_kv", k, v, strides=strides)
        results += [kv, *(call(extract, kv, strides=strides) for extract in ("extract_k", "extract_v"))]
        for layout in [*PAGES, *(CODES if dtype == "uint8" else ())]:
            tokens = (k, v) if layout in PAGES else (k[:, 0].copy(), None)
            cache, keywords = random_cache(layout, dtype), {"layout": layout, "strides": strides}
            results += [
                call("append", cache, *tokens, slots, **keywords),
                call("gather", cache, table, lens, **keywords),
                call("copy_pages", cache, swaps, **keywords),
            ]
    for layout in FURTHER:
        for dtype in LAYOUTS[layout].dtypes:
            moves, told = moving(layout, dtype)
            for operation, args in moves.items():
                wide = [a.astype(index) if getattr(a, "dtype", None) == np.int32 else a for a in args]
                results.append(call(operation, *wide, layout=layout, strides=strides, **told))
            results.append(call("copy_pages", moves["append"][0], swaps, layout=layout, strides=strides))
    return [leaf for result in results for leaf in _leaves(result)]


def every_attention(index: type[Any] = np.int32, strides: str = "contiguous") -> list[Array]:
    """Results of paged_decode, without features and with all, and merge_states, on each layout and in each format."""
    return plain_attention(index, strides) + featured_attention(index, strides) + narrow_attention(index, strides)


def scales(kv_scales: str, seed: int = 0) -> Array:
    """k_scale or v_scale, powers of two from 1/2 to 2, NaN where no token lives."""
    shape = {"tensor": (1,), "head": (NUM_KV_HEADS,), "page": (NUM_PAGES, NUM_KV_HEADS)}
    shape |= {"token": (NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS)}
    made = np.exp2(np.random.default_rng(seed).integers(-1, 2, shape[kv_scales])).astype(np.float32)
    if kv_scales in ("page", "token"):
        alive = np.zeros((NUM_PAGES, PAGE_SIZE), bool)
        for seq in range(len(KV_LENS)):
            alive[live(seq)] = True
        made[~(alive if kv_scales == "token" else alive.any(1))] = np.nan
    return made


KV_SCALES = ("tensor", "head", "page", "token")


def scaled(kv_scales: str) -> dict[str, Any]:
    """k_scale and v_scale as keywords."""
    return {name: scales(kv_scales, seed) for seed, name in enumerate(("k_scale", "v_scale"))}


def narrow_attention(index: type[Any] = np.int32, strides: str = "contiguous") -> list[Array]:
    """Over narrow caches, with each kind of scales, and over rows whose K and V are not alike."""
    rng = np.random.default_rng(6)
    results: list[Any] = []
    for dtype in NARROW:
        k, v = (rng.integers(-8, 9, (NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM)) for _ in "kv")
        for layout, kv_scales, q_dtype in zip(PAGES, ("", *KV_SCALES), ROUNDED * 2, strict=False):
            how = {
                "index": index,
                "strides": strides,
                **every_feature(index),
                **(scaled(kv_scales) if kv_scales else {}),
            }
            q = rng.standard_normal((sum(Q_LENS), NUM_KV_HEADS * GROUP, HEAD_DIM))
            results.append(decode(layout, dtype, k, v, q, 3, sm_scale=0.1, q_dtype=q_dtype, **how))
    for layout in UNEVEN:
        results += [uneven(layout, dim, dim_v, index, strides) for dim, dim_v in ((16, 24), (8, 5))]
    return [leaf for result in results for leaf in _leaves(result)]


def uneven(
    layout: str, dim: int, dim_v: int, index: type[Any] = np.int32, strides: str = "contiguous", as_nhd: bool = False
) -> tuple[Array, Array]:
    """paged_decode over a row of UNEVEN, K of width `dim` and V of `dim_v` where both are free; or over what is the
    same on an nhd cache, whose narrower side is padded with zeros."""
    heads, dtype = (1, "float16") if layout == "mla" else (NUM_KV_HEADS, "float16")
    size = 1 if layout == "token_slots_diffkv" else PAGE_SIZE
    table = np.arange(36).reshape(4, 9)[::-1] if size == 1 else TABLE[:3]
    lens, pages = np.array([9, 0, 7, 2] if size == 1 else KV_LENS[:3]), int(table.max()) + 1
    rng = np.random.default_rng(dim)
    rope, told, given = 0, {}, {}
    k, v = (rng.standard_normal((pages, size, heads, n)) for n in (dim, dim_v))
    if layout == "mla":
        rope, v = 64, k
        k = np.concatenate([v, rng.standard_normal((pages, size, heads, rope))], -1)
    if layout == "token_head_scales":
        dtype, v = "int8", rng.standard_normal((pages, size, heads, dim))
        k, v = (np.rint(16 * one) for one in (k, v))
        beside = [np.exp2(rng.integers(-4, -1, (pages, size, heads))).astype(np.float32) for _ in "kv"]
        told = {"dtype": dtype, "head_dim": dim}
    k, v = (np.ascontiguousarray(one.astype(DTYPES[dtype])) for one in (k, v))
    q = rng.standard_normal((len(lens), heads * GROUP, dim + rope)).astype(np.float16)
    if as_nhd:
        widest = max(k.shape[-1], v.shape[-1])
        q, wide_k, wide_v = (np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, widest - x.shape[-1])]) for x in (q, k, v))
        cache = {"k": wide_k, "v": wide_v}
        given = dict(zip(("k_scale", "v_scale"), beside, strict=True)) if layout == "token_head_scales" else {}
    elif layout == "mla":
        cache = {"kv_cache": k[:, :, 0]}
    elif layout == "token_head_scales":
        rows = [np.concatenate([x.view(np.uint8), bits(s)[..., :]], -1) for x, s in zip((k, v), beside, strict=True)]
        cache = {"kv_cache": np.stack(rows, 3)}
    elif layout == "token_slots_diffkv":
        cache = {"k": k[:, 0], "v": v[:, 0]}
    else:
        kv = np.concatenate([k, v], -1)
        cache = {"kv": kv if layout == "beside_nhd_diffkv" else np.ascontiguousarray(kv.swapaxes(1, 2))}
        told = {"head_dim": dim, "head_dim_v": dim_v}
    keywords = {"sm_scale": 0.25, "num_splits": 2, "strides": strides, **given}
    keywords |= {"layout": "nhd"} if as_nhd else {"layout": layout, **told}
    out, lse = call("paged_decode", q, cache, table.astype(index), lens.astype(index), **keywords)
    return out[..., : v.shape[-1]], lse


def featured_attention(index: type[Any] = np.int32, strides: str = "contiguous") -> list[Array]:
    rng = np.random.default_rng(4)
    results: list[Any] = []
    for dtype in ROUNDED:
        k, v = (rng.standard_normal((NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM)) for _ in "kv")
        q = rng.standard_normal((sum(Q_LENS), NUM_KV_HEADS * GROUP, HEAD_DIM))
        how = {"index": index, "strides": strides, **every_feature(index)}
        results += [decode(layout, dtype, k, v, q, splits, **how) for layout in PAGES for splits in (1, 3)]
    return [leaf for result in results for leaf in _leaves(result)]


def plain_attention(index: type[Any] = np.int32, strides: str = "contiguous") -> list[Array]:
    rng = np.random.default_rng(3)
    results: list[Any] = []
    for dtype in ROUNDED:
        k, v, outs = (rng.standard_normal((NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM)) for _ in range(3))
        q = rng.standard_normal((len(KV_LENS), NUM_KV_HEADS * GROUP, HEAD_DIM))
        how = {"index": index, "strides": strides}
        results += [decode(layout, dtype, k, v, q, splits, **how) for layout in PAGES for splits in (1, 3)]
        lses = rng.standard_normal(outs.shape[:3]).astype(np.float32)
        results.append(call("merge_states", outs.astype(DTYPES[dtype]), lses, strides=strides))
    return [leaf for result in results for leaf in _leaves(result)]


def every_operation(index: type[Any] = np.int32, strides: str = "contiguous") -> list[Array]:
    return every_movement(index, strides) + every_attention(index, strides)


def _leaves(result: Any) -> list[Array]:
    if isinstance(result, dict):
        return list(result.values())
    return [leaf for leaf in (result if isinstance(result, tuple) else (result,)) if leaf is not None]


BARRIERS = 3
"""`__syncthreads()` in attention.cuh: behind the query, behind the scores of a tile, before those of the next."""


def _copy_sources(folder: Path) -> None:
    for path in build.SOURCES.glob("*.cu*"):
        shutil.copy(path, folder)


def changed(old: str, new: str, folder: Path) -> Path:
    """The kernels' source in a folder of its own, with one piece of attention.cuh replaced that it has just once."""
    _copy_sources(folder)
    before, after = (folder / "attention.cuh").read_text().split(old)
    (folder / "attention.cuh").write_text(before + new + after)
    return folder / "kernels.cu"


def without_barrier(missing: int, folder: Path) -> Path:
    """The kernels' source in a folder of its own, with one of BARRIERS removed and nothing else changed."""
    _copy_sources(folder)
    before, *after = (folder / "attention.cuh").read_text().split("__syncthreads();")
    kept = [*["__syncthreads();"] * missing, "", *["__syncthreads();"] * (BARRIERS - missing - 1)]
    (folder / "attention.cuh").write_text(before + "".join(map("".join, zip(kept, after, strict=True))))
    return folder / "kernels.cu"
