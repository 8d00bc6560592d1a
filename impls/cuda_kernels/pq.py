"""Product-quantised K and V: the operations of the adapter that the kernels of pq_kernels.cu serve.

Codes have 8 bits, or 4: then two lie in a byte, neighbours along the last axis of their array, the even one in the low
half. What is computed is float32: nearest centroids by differences, squared and added up dim by dim (a GPU fuses square
and sum); a score as a table's entry for each subspace, itself a sum of products, added up; weights, sums and partial
results. Only results are rounded to another format, once, when the merge stores them.

What bad input can do is told from shapes, types and numbers on the host, before anything is launched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvconform.impls.cuda_kernels import arguments, build, runtime
from kvconform.impls.cuda_kernels.launches import launch, merge, tensor
from kvconform.impls.cuda_kernels.runtime import DeviceArray
from kvconform.impls.host_kernels.pq_checks import (
    BITS,
    require_append,
    require_attention,
    require_nearest,
    require_splits,
)
from kvconform.impls.host_kernels.pq_splits import num_splits_for

Cache = Mapping[str, DeviceArray]

ROWS, COLUMNS = ("page", "slot", "subspace"), ("page", "subspace", "slot")
LAYOUTS = {"pq_rows": (ROWS, ROWS), "pq_columns": (ROWS, COLUMNS), "pq_heads": (ROWS, ROWS)}
"""Layout -> the axes of the codes of K and of V."""

ELEMENTS = ("float32", "float16", "bfloat16")

INSTANCES = {
    "_".join(["pq_split", element, *sizes.split(", ")]): line
    for line, element, sizes in re.findall(
        r"^(SPLIT\((\w+), \w+, ([\d, ]+)\));$", (build.SOURCES / "pq_instances.cuh").read_text(), re.MULTILINE
    )
}
"""Kernel of attention with sizes as constants -> its line in pq_instances.cuh."""

THREADS, HEADS, STAGE, QUAD_BYTES = 128, 4, 64, 16
"""pq.cuh relies on the first; it has the others by the same names: q heads of a block where a group has more than one,
tokens whose codes of V wait in shared memory, bytes that are loaded at once."""

SHARED_BYTES = 96 << 10
"""Dynamic shared memory of a block at most: every GPU since sm_80 has that much."""

TILE, LONG_TILE = 128, 1024
"""Tokens between two updates of the running maximum; and where the table of scores is made anew for each such tile."""

FLOAT_BYTES, MOST_TOKENS = 4, 1 << 31


def pq_encode(
    x: DeviceArray, codebooks: DeviceArray, *, dtype: str = "uint8", num_subspaces: int | None = None
) -> DeviceArray:
    book = _Book.of("codebooks", codebooks, dtype, num_subspaces)
    book.check_vectors("x", x)
    require_nearest("x", x.numpy(), codebooks.numpy())
    num_tokens, num_kv_heads, _ = x.shape
    codes = DeviceArray((num_tokens, num_kv_heads, book.num_subspaces * book.bits // 8), np.dtype(np.uint8))
    _code("pq_encode", x, codes, book)
    return codes


def pq_decode(
    codes: DeviceArray, codebooks: DeviceArray, *, dtype: str = "uint8", num_subspaces: int | None = None
) -> DeviceArray:
    book = _Book.of("codebooks", codebooks, dtype, num_subspaces)
    num_tokens, num_kv_heads = _check("codes", codes, "uint8", (None, None, book.num_subspaces * book.bits // 8))[:2]
    x = DeviceArray((num_tokens, num_kv_heads, book.num_subspaces * book.sub_dim), codebooks.dtype)
    _code("pq_decode", x, codes, book)
    return x


def pq_append(
    cache: Cache,
    k: DeviceArray,
    v: DeviceArray,
    k_codebooks: DeviceArray,
    v_codebooks: DeviceArray,
    slot_mapping: DeviceArray,
    *,
    layout: str,
    dtype: str = "uint8",
    page_size: int | None = None,
    num_subspaces: int | None = None,
) -> Cache:
    """A slot of -1 takes nothing."""
    k_book, v_book = _books(k_codebooks, v_codebooks, dtype, num_subspaces)
    k_book.check_vectors("k", k)
    v_book.check_vectors("v", v, k.shape)
    pages = _Pages.of(cache, layout, k_book, page_size)
    slots = _indices("slot_mapping", slot_mapping, k.shape[:2])
    given, books = ([one.numpy() for one in both] for both in ((k, v), (k_codebooks, v_codebooks)))
    require_append(given, books, slot_mapping.numpy(), pages.num_pages * pages.page_size)
    parities = range(2 if arguments.PAIRINGS.index("slot") in (pages.k.paired, pages.v.paired) else 1)
    for parity in parities:  # slots that share a byte are written one launch after the other
        told = arguments.PqAppend(
            k=tensor(k),
            v=tensor(v),
            k_codes=pages.k,
            v_codes=pages.v,
            k_codebook=k_book.told,
            v_codebook=v_book.told,
            slot_mapping=slots,
            num_slots=pages.num_pages * pages.page_size,
            page_size=pages.page_size,
            num_subspaces=k_book.num_subspaces,
            sub_dim=k_book.sub_dim,
            parity=parity,
        )
        _launch(f"pq_append_{k_book.element}_{k_book.bits}", (*k.shape[:2], 2), told, k_book.num_subspaces)
    return cache


def pq_decode_attention(
    q: DeviceArray,
    cache: Cache,
    k_codebooks: DeviceArray,
    v_codebooks: DeviceArray,
    page_ids: DeviceArray,
    kv_lens: DeviceArray,
    residual_k: DeviceArray,
    residual_v: DeviceArray,
    residual_lens: DeviceArray,
    *,
    layout: str,
    dtype: str = "uint8",
    page_size: int | None = None,
    num_subspaces: int | None = None,
    sm_scale: float | None = None,
    num_splits: int | None = None,
    out: DeviceArray | None = None,
    lse: DeviceArray | None = None,
) -> tuple[DeviceArray, DeviceArray]:
    """Splits of the coded tokens, the residual as one more partial result by paged_decode's kernel, and the merge."""
    k_book, v_book = _books(k_codebooks, v_codebooks, dtype, num_subspaces)
    k_book.check_vectors("q", q)
    pages = _Pages.of(cache, layout, k_book, page_size)
    num_seqs, num_q_heads, head_dim = q.shape
    k_book.check_vectors("residual_k", residual_k, (num_seqs, None, None, head_dim))
    v_book.check_vectors("residual_v", residual_v, residual_k.shape)
    _, capacity, num_kv_heads, _ = residual_k.shape
    if num_kv_heads < 1 or num_q_heads % num_kv_heads:
        raise ValueError(f"{num_q_heads} q heads do not share {num_kv_heads} kv heads evenly")
    told_pages = _indices("page_ids", page_ids, (num_seqs, num_kv_heads, None))
    told_lens = _indices("kv_lens", kv_lens, (num_seqs,))
    _indices("residual_lens", residual_lens, (num_seqs,))
    lens = kv_lens.numpy()
    room = {"page_size": pages.page_size, "num_pages": pages.num_pages, "capacity": capacity}
    require_attention(page_ids.numpy(), lens, residual_lens.numpy(), **room)
    if lens.max(initial=0) >= MOST_TOKENS:
        raise ValueError(f"kv_lens has {lens.max()}, and the kernels count to {MOST_TOKENS}")
    scale = head_dim**-0.5 if sm_scale is None else sm_scale
    count = num_splits_for(int(lens.max(initial=0))) if num_splits is None else num_splits
    require_splits(count)

    outs = DeviceArray((count + 1, num_seqs, num_q_heads, head_dim), np.dtype(np.float32))
    lses = DeviceArray(outs.shape[:-1], outs.dtype)
    group = num_q_heads // num_kv_heads
    heads = HEADS if group > 1 else 1
    plan = plan_for(k_book, heads)
    told = arguments.PqAttention(
        q=tensor(q),
        k=pages.k,
        v=pages.v,
        k_codebook=k_book.told,
        v_codebook=v_book.told,
        page_ids=told_pages,
        lens=told_lens,
        outs=tensor(outs),
        lses=tensor(lses),
        page_size=pages.page_size,
        head_dim=head_dim,
        num_subspaces=k_book.num_subspaces,
        num_kv_heads=num_kv_heads,
        group=group,
        chunk=plan.chunk,
        tile=plan.tile,
        sm_scale=scale,
    )
    grid = (num_seqs, num_kv_heads * -(-group // heads), count)
    _launch(instance(k_book, v_book, heads), grid, told, plan.shared_bytes)
    last = (slice(count, count + 1),)
    _attend_to_residual(q, residual_k, residual_v, residual_lens, outs[last], lses[last], scale)
    return merge(outs, lses, q.dtype, out, lse)


def _attend_to_residual(
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    lens: DeviceArray,
    outs: DeviceArray,
    lses: DeviceArray,
    sm_scale: float,
) -> None:
    """Plain decode: the rows of a sequence are a page of its own."""
    num_seqs, capacity, num_kv_heads, head_dim = k.shape
    pages = DeviceArray.of(np.arange(num_seqs, dtype=lens.dtype))
    told = arguments.Decode(
        q=tensor(q),
        k_cache=_residual(k),
        v_cache=_residual(v),
        outs=tensor(outs),
        lses=tensor(lses),
        table=arguments.Table(
            entries=arguments.Tensor(pages.address, pages.strides), lens=tensor(lens), page_size=max(capacity, 1)
        ),
        group=q.shape[1] // num_kv_heads,
        head_dim=head_dim,
        head_dim_v=head_dim,
        sm_scale=sm_scale,
    )
    launch(f"decode_{q.dtype}_{lens.dtype}", (*q.shape[:2], 1), told, 2 * head_dim * FLOAT_BYTES)


def _residual(rows: DeviceArray) -> arguments.Paged:
    page, *strides = rows.strides
    axes = [arguments.Axis(0, stride, max(size, 1)) for stride, size in zip(strides, rows.shape[1:], strict=True)]
    return arguments.Paged(rows.address, page, *axes, 0)


# ---- which kernel, and how it works through its split


@dataclass(frozen=True)
class Plan:
    """chunk: subspaces that are tabulated at a time; tile: tokens that are looked up in one table."""

    chunk: int
    tile: int
    shared_bytes: int


def plan_for(book: _Book, heads: int) -> Plan:
    """The whole table where it fits beside the rest, else in chunks. Raises ValueError where not one subspace fits."""
    head_dim, row = book.num_subspaces * book.sub_dim, book.count * heads * FLOAT_BYTES
    slices = max(THREADS // head_dim, 1)
    staged = -(-STAGE * book.num_subspaces // QUAD_BYTES) * QUAD_BYTES
    for tile in (TILE, LONG_TILE):
        rest = staged + FLOAT_BYTES * heads * (tile + (slices + 1) * head_dim)
        chunk = min((SHARED_BYTES - rest) // row, book.num_subspaces)
        if chunk == book.num_subspaces:
            break
    per_quad = QUAD_BYTES * 8 // book.bits
    if per_quad <= chunk < book.num_subspaces:
        chunk -= chunk % per_quad
    if chunk < 1:
        raise ValueError(
            f"{book.num_subspaces} subspaces of {book.sub_dim} dims and {book.count} centroids need more than the "
            f"{SHARED_BYTES} bytes of shared memory that a block may have"
        )
    return Plan(chunk, tile, rest + chunk * row)


def instance(k_book: _Book, v_book: _Book, heads: int) -> str:
    """The kernel compiled for these sizes, or the one for any."""
    general = f"pq_split_{k_book.element}_{k_book.bits}_{heads}"
    exact = f"{general}_{k_book.num_subspaces * k_book.sub_dim}_{k_book.num_subspaces}_{k_book.count}"
    return exact if exact in INSTANCES and v_book.count == k_book.count else f"{general}_0_0_0"


def define_of(kernel: str) -> str:
    """The macro by which pq_kernels.cu is compiled for a kernel: with few others, so that nobody waits for all."""
    return f"PQ_ONLY={INSTANCES[kernel]}" if kernel in INSTANCES else "PQ_ANY_SIZES"


def _launch(kernel: str, grid: tuple[int, int, int], told: Any, shared_bytes: int = 0) -> None:
    if all(grid):
        place = runtime.further(build.PQ_KERNELS, define_of(kernel))
        place.launch(kernel, grid, (THREADS, 1, 1), shared_bytes, told)


def _code(operation: str, x: DeviceArray, codes: DeviceArray, book: _Book) -> None:
    told = arguments.PqCode(tensor(x), _codes(codes, ROWS, book.bits), book.told, book.num_subspaces, book.sub_dim)
    _launch(f"{operation}_{book.element}_{book.bits}", (*x.shape[:2], 1), told, book.num_subspaces)


# ---- arguments: what they are, and whether they can be


@dataclass(frozen=True)
class _Book:
    """Codebooks [num_subspaces, count, sub_dim] for codes of so many bits."""

    told: arguments.Codebook
    element: str
    bits: int
    num_subspaces: int
    count: int
    sub_dim: int

    @staticmethod
    def of(name: str, array: DeviceArray, dtype: str, num_subspaces: int | None) -> _Book:
        if dtype not in BITS:
            raise ValueError(f"codes are {' or '.join(BITS)}, not {dtype!r}")
        if array.dtype.name not in ELEMENTS:
            raise ValueError(f"{name} are of {array.dtype}, not one of {', '.join(ELEMENTS)}")
        _check(name, array, array.dtype.name, (num_subspaces, None, None))
        subspaces, count, sub_dim = array.shape
        bits = BITS[dtype]
        if min(array.shape) < 1 or count > 1 << bits:
            raise ValueError(f"{name} of shape {array.shape}: of centroids there are 1 to {1 << bits} in {dtype} codes")
        if subspaces * bits % 8:
            raise ValueError(f"{subspaces} codes of {dtype} do not fill whole bytes")
        told = arguments.Codebook(tensor(array), count)
        return _Book(told, array.dtype.name, bits, subspaces, count, sub_dim)

    def check_vectors(self, name: str, array: DeviceArray, shape: tuple[int | None, ...] = (None,) * 3) -> None:
        """Raises ValueError where these are not vectors for such codebooks."""
        _check(name, array, self.element, shape)
        if array.shape[-1] != self.num_subspaces * self.sub_dim:
            raise ValueError(
                f"{name} has a head_dim of {array.shape[-1]}; {self.num_subspaces} subspaces of {self.sub_dim} dims "
                f"make {self.num_subspaces * self.sub_dim}"
            )


def _books(k: DeviceArray, v: DeviceArray, dtype: str, num_subspaces: int | None) -> tuple[_Book, _Book]:
    books = _Book.of("k_codebooks", k, dtype, num_subspaces), _Book.of("v_codebooks", v, dtype, num_subspaces)
    if (k.dtype, k.shape[0], k.shape[2]) != (v.dtype, v.shape[0], v.shape[2]):
        raise ValueError(
            f"k_codebooks {k.dtype} {k.shape} and v_codebooks {v.dtype} {v.shape} differ in more than centroids"
        )
    return books


@dataclass(frozen=True)
class _Pages:
    """The codes of a cache."""

    k: arguments.Codes
    v: arguments.Codes
    num_pages: int
    page_size: int

    @staticmethod
    def of(cache: Cache, layout: str, book: _Book, page_size: int | None) -> _Pages:
        if layout not in LAYOUTS:
            raise ValueError(f"pages of codes lie as {', '.join(LAYOUTS)}, not as {layout!r}")
        k_axes, v_axes = LAYOUTS[layout]
        num_pages, size = cache["k"].shape[0], cache["k"].shape[1] if page_size is None else page_size
        sizes = {"page": num_pages, "slot": size, "subspace": book.num_subspaces}
        for name, axes in (("k", k_axes), ("v", v_axes)):
            *outer, last = (sizes[axis] for axis in axes)
            if last * book.bits % 8:
                raise ValueError(f"{last} codes of {book.bits} bits in a row of {name} do not fill whole bytes")
            _check(f"cache[{name!r}]", cache[name], "uint8", (*outer, last * book.bits // 8))
        if size < 1:
            raise ValueError(f"a page has a slot at least, not {size}")
        return _Pages(_codes(cache["k"], k_axes, book.bits), _codes(cache["v"], v_axes, book.bits), num_pages, size)


def _codes(array: DeviceArray, axes: tuple[str, str, str], bits: int) -> arguments.Codes:
    strides = dict(zip(axes, array.strides, strict=True))
    paired = arguments.PAIRINGS.index("none" if bits == 8 else axes[-1])
    return arguments.Codes(array.address, strides["page"], strides["slot"], strides["subspace"], paired)


def _indices(name: str, array: DeviceArray, shape: tuple[int | None, ...]) -> arguments.Indices:
    if array.dtype.name not in ("int32", "int64"):
        raise ValueError(f"{name} is of {array.dtype}, not int32 or int64")
    _check(name, array, array.dtype.name, shape)
    return arguments.Indices(tensor(array), array.dtype.itemsize == 8)


def _check(name: str, array: DeviceArray, dtype: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Shape of an array; None stands for any size. Raises ValueError where it is of another type or shape."""
    sizes = array.shape
    fits = len(sizes) == len(shape) and all(want in (None, size) for size, want in zip(sizes, shape, strict=True))
    if array.dtype.name != dtype or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {array.dtype} of shape {sizes}, not {dtype} of shape ({wanted})")
    return sizes
