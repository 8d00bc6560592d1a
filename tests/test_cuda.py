"""The `cuda` kernels move every bit and compute what is exact; their emulator finds what it promises to find."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvconform.impls import cuda, numpy_ref
from kvconform.impls.cuda_kernels import arguments, build, device, host, pages, runtime
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.storage import wrap
from kvconform.tests.cuda_calls import (
    BARRIERS,
    CODES,
    FURTHER,
    GROUP,
    HEAD_DIM,
    KV_LENS,
    NUM_KV_HEADS,
    NUM_PAGES,
    PAGE_SIZE,
    PAGES,
    Q_LENS,
    ROUNDED,
    SWAPS,
    TABLE,
    Array,
    bits,
    call,
    decode,
    every_feature,
    every_movement,
    every_operation,
    live,
    moving,
    own_values,
    pages_of,
    queries,
    random_bits,
    random_cache,
    sides,
    without_barrier,
)

Call = Callable[..., Any]

NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
KERNELS = re.findall(r"^KERNEL\((\w+),", build.KERNELS.read_text(), re.MULTILINE)
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
SCHEDULES = ("forward", "reversed", "shuffled")

# ---- what runs where ----


@cache
def shipped() -> host.Host:
    return host.Host(build.library())


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Makes the adapter run in a given place, an emulator under a given schedule."""

    def choose(place: runtime.Runtime, schedule: str = "in turn") -> None:
        if isinstance(place, host.Host):
            place.schedule(schedule)
        monkeypatch.setattr(runtime, "current", lambda: place)

    return choose


# ---- formats ----


def convert(kernel: str, source: Array, target: str) -> Array:
    """One of the conversion kernels, over a flat array."""
    given, got = cuda.to_device(source), runtime.DeviceArray(source.shape, DTYPES[target])
    told = arguments.Convert(given.address, got.address, source.size)
    runtime.current().launch(kernel, (-(-source.size // 64), 1, 1), (64, 1, 1), 0, told)
    return got.numpy()


def patterns(dtype: str) -> Array:
    """Every number of a format, by bit pattern."""
    size = DTYPES[dtype].itemsize
    return np.arange(256**size, dtype=f"uint{8 * size}").view(DTYPES[dtype])


def assert_same_numbers(got: Array, want: Array) -> None:
    """Bit for bit; a NaN for a NaN of the same sign."""
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))
    np.testing.assert_array_equal(bits(got[~nan]), bits(want[~nan]))


@pytest.mark.parametrize("dtype", NARROW)
def test_widening_is_exact_like_ml_dtypes(dtype: str) -> None:
    numbers = patterns(dtype)
    assert_same_numbers(convert(f"widen_{dtype}", numbers, "float32"), numbers.astype(np.float32))


@pytest.mark.parametrize("dtype", NARROW)
def test_narrowing_rounds_to_nearest_even_like_ml_dtypes(dtype: str) -> None:
    """At every number of the format, halfway to the next, beyond the last, and one float32 step to each side."""
    numbers = patterns(dtype).astype(np.float32)
    finite = np.unique(numbers[np.isfinite(numbers)])
    halves = finite[:-1] + (finite[1:] - finite[:-1]) / 2
    with np.errstate(over="ignore"):
        beyond = finite[-1] + (finite[-1] - finite[-2]) * np.array([0.5, 1.0, 1.5], np.float32)
    points = np.concatenate([finite, halves, beyond, -beyond, -finite[finite == 0]])
    around = [np.nextafter(points, np.array(side, np.float32)) for side in (np.inf, -np.inf)]
    limits = np.finfo(np.float32)
    extremes = np.array([np.inf, np.nan, limits.max, limits.smallest_subnormal], np.float32)
    given = np.concatenate([points, *around, extremes, -extremes])
    with np.errstate(over="ignore"):
        want = given.astype(DTYPES[dtype])
    assert_same_numbers(convert(f"narrow_{dtype}", given, dtype), want)


# ---- data movement ----

CELLS = [
    *((layout, dtype) for layout in PAGES for dtype in DTYPES),
    *((layout, "uint8") for layout in CODES),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_rows_alternate_and_come_apart_again(dtype: str) -> None:
    k, v = (random_bits((5, 3, 10), dtype, seed) for seed in (1, 2))
    kv = call("merge_kv", k, v)
    np.testing.assert_array_equal(bits(kv), bits(np.stack([k, v], 2).reshape(5, 6, 10)))
    np.testing.assert_array_equal(bits(call("extract_k", kv)), bits(k))
    np.testing.assert_array_equal(bits(call("extract_v", kv)), bits(v))


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize(("layout", "dtype"), CELLS)
def test_append_writes_its_slots_and_leaves_every_other_byte(layout: str, dtype: str, index: type[Any]) -> None:
    cache = random_cache(layout, dtype)
    slots = np.random.default_rng(1).permutation(NUM_PAGES * PAGE_SIZE)[:9].astype(index)
    slots[[2, 5]] = -1
    token = (HEAD_DIM,) if layout in CODES else (NUM_KV_HEADS, HEAD_DIM)
    tokens = [random_bits((9, *token), dtype, seed) for seed in (8, 9)][: len(sides(cache, layout))]
    got = call("append", cache, *tokens, *[None] * (2 - len(tokens)), slots, layout=layout)
    assert got.keys() == cache.keys()
    for before, after, rows in zip(sides(cache, layout), sides(got, layout), tokens, strict=True):
        want = before.copy()
        want[slots[slots >= 0] // PAGE_SIZE, slots[slots >= 0] % PAGE_SIZE] = rows[slots >= 0]
        np.testing.assert_array_equal(bits(after), bits(want))


@pytest.mark.parametrize(("layout", "dtype"), CELLS)
def test_gather_returns_the_live_tokens_bit_for_bit(layout: str, dtype: str) -> None:
    cache = random_cache(layout, dtype)
    got = [
        side for side in call("gather", cache, TABLE, np.array(KV_LENS, np.int32), layout=layout) if side is not None
    ]
    for rows, side in zip(got, sides(cache, layout), strict=True):
        want = np.concatenate([side[live(seq)] for seq in range(len(KV_LENS))])
        np.testing.assert_array_equal(bits(rows), bits(want))


def test_append_returns_the_cache_it_was_given() -> None:
    handles = {name: cuda.to_device(array) for name, array in random_cache("nhd", "float16").items()}
    k = cuda.to_device(random_bits((1, NUM_KV_HEADS, HEAD_DIM), "float16"))
    got = cuda.append(handles, k, k, cuda.to_device(np.array([3], np.int32)), layout="nhd")
    assert all(got[name] is handle for name, handle in handles.items())


def assert_same_results(got: Any, want: Any) -> None:
    """Results of one operation: a cache, or K and V."""
    pairs = [(got[name], want[name]) for name in want] if isinstance(want, dict) else zip(got, want, strict=True)
    for mine, theirs in pairs:
        assert (mine is None) == (theirs is None)
        if mine is not None:
            np.testing.assert_array_equal(bits(mine), bits(theirs))


@pytest.mark.parametrize("operation", ["append", "gather"])
@pytest.mark.parametrize("layout", FURTHER)
def test_further_rows_move_as_the_reference_moves_them(layout: str, operation: str) -> None:
    for dtype in LAYOUTS[layout].dtypes:
        moves, told = moving(layout, dtype)
        want = getattr(numpy_ref, operation)(*moves[operation], layout=layout, **told)
        assert_same_results(call(operation, *moves[operation], layout=layout, **told), want)


@pytest.mark.parametrize("layout", [*PAGES, *CODES])
def test_slots_that_the_cache_does_not_have_are_dropped(layout: str) -> None:
    cache, end = random_cache(layout, "uint8"), NUM_PAGES * PAGE_SIZE
    tokens = random_bits((5, HEAD_DIM) if layout in CODES else (5, NUM_KV_HEADS, HEAD_DIM), "uint8")
    stray = np.array([-2, -end, end, end + 3, 2**31 - 1], np.int32)
    got = call("append", cache, tokens, None if layout in CODES else tokens, stray, layout=layout)
    assert_same_results(got, cache)


def test_heads_whose_dims_end_inside_a_chunk_are_found() -> None:
    """In `fractal` heads and dims are joined and cut by 16: the second of two heads of 24 begins within a chunk."""
    told: dict[str, Any] = {"layout": "fractal", "num_kv_heads": 2, "head_dim": 24}
    cache = {"kv": random_bits((2, NUM_PAGES, 3, PAGE_SIZE, 16), "bfloat16")}
    k, v = (random_bits((5, 2, 24), "bfloat16", seed) for seed in (1, 2))
    slots, lens = np.array([43, -1, 0, 17, 8], np.int32), np.array(KV_LENS, np.int32)
    written = call("append", cache, k, v, slots, **told)
    assert_same_results(written, numpy_ref.append(cache, k, v, slots, **told))
    assert_same_results(call("gather", written, TABLE, lens, **told), numpy_ref.gather(written, TABLE, lens, **told))


def test_rows_of_k_and_v_that_are_not_pairs_are_refused() -> None:
    cache = {"kv": random_bits((NUM_PAGES, PAGE_SIZE, 5, HEAD_DIM), "uint8")}
    with pytest.raises(ValueError, match="2 neighbours of 5 do not lie in whole pieces"):
        call("gather", cache, TABLE, np.array(KV_LENS, np.int32), layout="interleaved")


@pytest.mark.parametrize("strides", ["contiguous", "outer", "all"])
@pytest.mark.parametrize("layout", [row.name for row in LAYOUTS.values() if row.holds == "pages"])
def test_pages_are_copied_whole_and_swapped(layout: str, strides: str) -> None:
    """On every row there is: all that the kernel knows of one is which dimension counts pages."""
    axis = pages.page_axis(layout, next(iter(LAYOUTS[layout].buffers)))
    shape = [2, 3, 2, 4, 5]
    shape[axis] = NUM_PAGES
    cache = {name: random_bits(tuple(shape), "bfloat16", seed) for seed, name in enumerate(LAYOUTS[layout].buffers)}
    got = call("copy_pages", cache, SWAPS, layout=layout, strides=strides)
    assert_same_results(got, numpy_ref.copy_pages(cache, SWAPS, layout=layout))


# ---- offsets of more than 32 bits ----


def adopted(array: Array) -> runtime.DeviceArray:
    """A handle of an array where it lies: only the emulator can follow it."""
    handle = object.__new__(runtime.DeviceArray)
    handle.shape, handle.dtype, handle.address = array.shape, array.dtype, array.ctypes.data
    handle.strides = tuple(stride // array.itemsize for stride in array.strides)
    handle._storage = array  # type: ignore[assignment]
    return handle


def moved_far(place: host.Host, on: Call) -> list[bool]:
    """Whether append, gather and copy_pages find a page that lies 2**32 elements and more behind the first."""
    on(place)
    pool = np.zeros((2**16 + 2, 2**11, 2, 16), np.uint8)  # nearly all of it is never touched and takes no memory
    far, token = 2**16 + 1, random_bits((1, 1, 16), "uint8") | np.uint8(1)
    handle = {"kv": adopted(pool)}
    slots, table, lens = (cuda.to_device(np.array(indices)) for indices in ([far * 2**11 + 3], [[far]], [4]))
    cuda.append(handle, cuda.to_device(token), cuda.to_device(token), slots, layout="interleaved")
    found = [bool((pool[far, 3] == token[0]).all())]
    pool[far, 3], pool[1, 3] = token[0], 0
    k, _ = cuda.gather(handle, table, lens, layout="interleaved")
    found.append(bool((cuda.to_host(k)[3] == token[0]).all()))
    cuda.copy_pages(handle, cuda.to_device(np.array([[far, 2]])), layout="interleaved")
    return [*found, bool((pool[2, 3] == token[0]).all())]


def test_pages_beyond_32_bits_of_elements_are_found(on: Call) -> None:
    assert moved_far(shipped(), on) == [True, True, True]


def test_an_offset_of_32_bits_does_not_find_them(tmp_path: Path, on: Call) -> None:
    for path in build.SOURCES.glob("*.cu*"):
        shutil.copy(path, tmp_path)
    right = (tmp_path / "movement.cuh").read_text()
    narrow = re.sub(r"page \* (\w+)\.page", r"static_cast<u32>(page * \1.page)", right)
    assert narrow.count("static_cast<u32>") == 2, "of append and gather, and of copy_pages"
    (tmp_path / "movement.cuh").write_text(narrow)
    assert moved_far(host.Host(build.library(tmp_path / "kernels.cu")), on) == [False, False, False]


# ---- views, and indices of each width ----

SLICES = {
    "prefix": (slice(0, 2),),
    "inside": (slice(1, 4), slice(1, None), slice(2, -2)),
    "every_second": (slice(None, None, 2), slice(1, None, 2), slice(0, 9, 2)),
    "none": (slice(3, 3),),
    "whole": (),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slices", SLICES)
def test_a_view_is_what_numpy_takes(slices: str, dtype: str) -> None:
    array = random_bits((5, 4, 10), dtype)
    handle = cuda.to_device(array)
    view = handle[SLICES[slices]]
    np.testing.assert_array_equal(bits(cuda.to_host(view)), bits(array[SLICES[slices]]))
    again = (slice(1, None), slice(None), slice(None, None, 3))
    np.testing.assert_array_equal(bits(cuda.to_host(view[again])), bits(array[SLICES[slices]][again]))
    np.testing.assert_array_equal(bits(cuda.to_host(handle)), bits(array))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_over_an_array_shows_in_its_views(dtype: str) -> None:
    before, after = random_bits((5, 4, 10), dtype), random_bits((5, 4, 10), dtype)[::-1]
    handle = cuda.to_device(before)
    view, address = handle[SLICES["inside"]], handle.address
    handle[...] = cuda.to_device(after)
    assert handle.address == address
    np.testing.assert_array_equal(bits(cuda.to_host(handle)), bits(np.ascontiguousarray(after)))
    np.testing.assert_array_equal(bits(cuda.to_host(view)), bits(np.ascontiguousarray(after[SLICES["inside"]])))


def test_what_is_written_over_a_part_or_by_another_shape_or_type_is_refused() -> None:
    handle = cuda.to_device(np.arange(6).reshape(2, 3))
    for target, other in ((handle, np.arange(6)), (handle, np.zeros((2, 3), np.float32)), (handle, np.ones(4))):
        with pytest.raises(IndexError, match="all is written"):
            target[...] = cuda.to_device(other)
    with pytest.raises(IndexError, match="all is written"):
        handle[(slice(0, 1),)] = cuda.to_device(np.arange(3).reshape(1, 3))
    view = handle[(slice(None), slice(0, 2))]
    with pytest.raises(IndexError, match="all is written"):  # it has gaps, which are another's
        view[...] = cuda.to_device(np.zeros((2, 2), int))
    np.testing.assert_array_equal(cuda.to_host(handle), np.arange(6).reshape(2, 3))


def test_a_view_that_goes_backward_is_refused() -> None:
    with pytest.raises(IndexError, match="a view goes forward"):
        cuda.to_device(np.arange(4))[(slice(None, None, -1),)]


def test_memory_is_freed_with_the_last_view_of_it(on: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    place, freed = shipped(), []
    on(place)
    free = place.free
    monkeypatch.setattr(place, "free", lambda address: (freed.append(address), free(address)))
    handle = cuda.to_device(np.arange(6))
    address, view = handle.address, handle[(slice(2, None, 2),)]
    del handle
    assert freed == []
    np.testing.assert_array_equal(cuda.to_host(view), [2, 4])
    del view
    assert freed == [address]


@pytest.mark.parametrize("strides", ["outer", "all"])
def test_views_give_the_same_bits_as_arrays(strides: str) -> None:
    for packed, strided in zip(every_operation(), every_operation(strides=strides), strict=True):
        np.testing.assert_array_equal(bits(packed), bits(strided))


@pytest.mark.parametrize("strides", ["outer", "all"])
@pytest.mark.parametrize("layout", [*PAGES, *CODES])
def test_append_to_a_view_writes_through_it_and_nowhere_else(layout: str, strides: str) -> None:
    cache = random_cache(layout, "uint8")
    tokens = random_bits((3, HEAD_DIM) if layout in CODES else (3, NUM_KV_HEADS, HEAD_DIM), "uint8")
    arguments = (tokens, None if layout in CODES else tokens, np.array([43, 0, 17], np.int32))
    want = call("append", cache, *arguments, layout=layout)
    storages = {name: wrap(array, strides) for name, array in cache.items()}
    handles = {name: cuda.to_device(storage) for name, (storage, _) in storages.items()}
    views = {name: handles[name][slices] for name, (_, slices) in storages.items()}
    cuda.append(views, *(leaf if leaf is None else cuda.to_device(leaf) for leaf in arguments), layout=layout)
    for name, (storage, slices) in storages.items():
        storage[slices] = want[name]
        np.testing.assert_array_equal(cuda.to_host(handles[name]), storage)


def test_tables_and_lengths_of_either_width_give_the_same_bits() -> None:
    for narrow, wide in zip(every_operation(np.int32), every_operation(np.int64), strict=True):
        np.testing.assert_array_equal(bits(narrow), bits(wide))


# ---- attention: what is exact whatever the rounding ----

attends = pytest.mark.parametrize(
    ("layout", "dtype", "num_splits"),
    [(layout, dtype, splits) for layout in PAGES for dtype in ROUNDED for splits in (1, 2, 5)],
)


@attends
def test_decode_is_the_value_of_a_key_that_outweighs_all_others(layout: str, dtype: str, num_splits: int) -> None:
    """Weights of exactly 1 and 0, at each position in turn, before and behind every tile and split."""
    v = own_values()
    for winner in range(max(KV_LENS)):
        k = pages_of(0)
        expected = np.zeros((len(KV_LENS), NUM_KV_HEADS, HEAD_DIM), np.float32)
        chosen = [min(winner, length - 1) for length in KV_LENS]
        for seq, position in enumerate(chosen):
            if position >= 0:
                pages, slots = live(seq)
                k[pages[position], slots[position]] = 16
                expected[seq] = v[pages[position], slots[position]]
        out, lse = decode(layout, dtype, k, v, queries(1), num_splits)
        np.testing.assert_array_equal(out, expected.repeat(GROUP, 1))
        want = np.where(np.array(KV_LENS) > 0, np.float32(16 * HEAD_DIM), -np.inf)
        np.testing.assert_array_equal(lse, want[:, None].repeat(lse.shape[1], 1))


@attends
def test_decode_is_the_mean_of_equal_keys(layout: str, dtype: str, num_splits: int) -> None:
    """With q = 0 each weight is 1; multiples of the number of keys have a mean without rounding."""
    v = own_values()
    out, lse = decode(layout, dtype, pages_of(3), v * 12 % 240, queries(0), num_splits)
    for seq, length in enumerate(KV_LENS):
        if length in (1, 12):
            want = (v[live(seq)] * 12 % 240).sum(0) / length
            if num_splits == 1:
                np.testing.assert_array_equal(out[seq], want.repeat(GROUP, 0).astype(DTYPES[dtype]).astype(np.float32))
            steps = lse[seq].view(np.int32) - np.float32(np.log(length)).view(np.int32)
            assert np.abs(steps).max() <= 1, "logf and the sum before it: one step of float32 at most"
    assert np.isneginf(lse[1]).all()
    assert not out[1].any()


@attends
def test_decode_never_looks_at_dead_slots(layout: str, dtype: str, num_splits: int) -> None:
    rng = np.random.default_rng(5)
    k, v = (rng.standard_normal((NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM)) for _ in "kv")
    q = rng.standard_normal((len(KV_LENS), NUM_KV_HEADS * GROUP, HEAD_DIM))
    results = []
    for dead in (0, np.nan):
        mask = np.ones((NUM_PAGES, PAGE_SIZE), bool)
        for seq in range(len(KV_LENS)):
            mask[live(seq)] = False
        k[mask], v[mask] = dead, dead
        results.append(decode(layout, dtype, k, v, q, num_splits, sm_scale=0.25))
    for zeros, poisoned in zip(*results, strict=True):
        np.testing.assert_array_equal(bits(zeros), bits(poisoned))
        assert not np.isnan(poisoned).any()


@pytest.mark.parametrize("dtype", ROUNDED)
def test_merge_returns_the_only_live_part_bit_for_bit(dtype: str) -> None:
    outs = random_bits((4, 3, 2, HEAD_DIM), dtype)
    lses = np.full((4, 3, 2), -np.inf, np.float32)
    lses[2] = random_bits((3, 2), "int8").astype(np.float32)
    out, lse = call("merge_states", outs, lses)
    np.testing.assert_array_equal(bits(out), bits(outs[2]))
    np.testing.assert_array_equal(bits(lse), bits(lses[2]))


@pytest.mark.parametrize("dtype", ROUNDED)
def test_merge_of_nothing_is_zero(dtype: str) -> None:
    outs = np.full((3, 2, 2, HEAD_DIM), np.nan, DTYPES[dtype])
    out, lse = call("merge_states", outs, np.full((3, 2, 2), -np.inf, np.float32))
    assert not bits(out).any()
    assert np.isneginf(lse).all()


@pytest.mark.parametrize("dtype", ROUNDED)
def test_merge_averages_equal_parts_and_passes_over_empty_ones(dtype: str) -> None:
    outs = np.stack([np.full((2, 2, HEAD_DIM), value) for value in (3.0, np.nan, 8.0)]).astype(DTYPES[dtype])
    lses = np.stack([np.full((2, 2), value, np.float32) for value in (5.0, -np.inf, 5.0)])
    out, lse = call("merge_states", outs, lses)
    assert (out.astype(np.float32) == 5.5).all()
    assert (np.abs(lse.view(np.int32) - np.float32(5 + np.log(2)).view(np.int32)) <= 1).all()


# ---- the emulator ----

PROBES = r"""
#include "cuda_on_cpu.h"
struct Words { unsigned* words; };
#define PROBE(name) extern "C" __global__ void name(const Words a); CUDA_EXPORT(name); void name(const Words a)

PROBE(order) { a.words[1 + blockIdx.x * blockDim.x + threadIdx.x] = a.words[0]++; }

PROBE(shared_memory) {
    __shared__ unsigned fixed[4];
    CUDA_DYNAMIC_SHARED(unsigned, dynamic);
    if (threadIdx.x == 0) a.words[blockIdx.x] = fixed[3] & dynamic[1];
    __syncthreads();
    fixed[3] = dynamic[1] = 0;
}

PROBE(shuffles) {
    const unsigned lane = threadIdx.x, all = 0xFFFFFFFFu;
    a.words[lane] = __shfl_sync(all, lane, 5);
    a.words[32 + lane] = __shfl_sync(all, lane, 3, 8);
    a.words[64 + lane] = __shfl_xor_sync(all, lane, 6);
    a.words[96 + lane] = __shfl_xor_sync(all, lane, 9, 8);
    a.words[128 + lane] = __shfl_down_sync(all, lane, 3u);
    a.words[160 + lane] = __shfl_down_sync(all, lane, 3u, 8);
}

PROBE(shuffle_with_absent) {
    if (threadIdx.x >= 8) return;
    a.words[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, threadIdx.x, 12);
}

PROBE(half_warps) {
    __shared__ unsigned turns[32];
    const unsigned lane = threadIdx.x, mask = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    if (lane < 16) turns[lane] = lane;
    __syncwarp(mask);
    if (lane >= 16) turns[lane] = lane;
    __syncwarp();
    a.words[lane] = turns[31 - lane];
}

PROBE(early_return) {
    if (threadIdx.x % 2) return;
    __syncthreads();
    a.words[threadIdx.x] = 1;
}

PROBE(missing_threads) {
    if (threadIdx.x < 40) __syncthreads();  // line: missing_threads
    else __shfl_xor_sync(0xFFFFFFFFu, 1, 1);  // line: missing_lanes
}

PROBE(two_barriers) {
    if (threadIdx.x < 7) __syncthreads();  // line: one_barrier
    else __syncthreads();  // line: other_barrier
}

PROBE(two_masks) { __syncwarp(threadIdx.x ? 0xFFFFFFFFu : 0x3u); }

"""


def line(marker: str) -> int:
    return next(number for number, text in enumerate(PROBES.splitlines(), 1) if text.endswith(f"// line: {marker}"))


@pytest.fixture(scope="session")
def probe_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "probes.cu"
    path.write_text(PROBES)
    return path


@pytest.fixture
def probe(probe_source: Path) -> Call:
    """Launches a probe under one schedule and returns the words it left; unwritten words are all ones."""
    emulator = host.Host(build.library(probe_source))

    def launch(
        kernel: str, *, words: Array, threads: int, blocks: int = 1, shared: int = 0, schedule: str = "in turn"
    ) -> Array:
        class Words(ctypes.Structure):
            _fields_ = (("words", ctypes.c_void_p),)

        emulator.schedule(schedule)
        emulator.launch(kernel, (blocks, 1, 1), (threads, 1, 1), shared, Words(words.ctypes.data))
        return words

    return launch


def words(count: int) -> Array:
    return np.full(count, 0xFFFFFFFF, np.uint32)


def test_schedules_order_threads_and_blocks_each_in_its_way(probe: Call) -> None:
    def order(schedule: str) -> list[int]:
        place = words(1 + 12)
        place[0] = 0
        return list(probe("order", words=place, threads=4, blocks=3, schedule=schedule)[1:])

    assert order("forward") == list(range(12))
    assert order("reversed") == list(range(12))[::-1]
    assert order("shuffled") not in (order("forward"), order("reversed"))
    assert sorted(order("shuffled")) == list(range(12))
    in_turn = [order("in turn") for _ in range(3)]
    assert all(order(schedule) in in_turn for schedule in SCHEDULES)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="no schedule 'backwards': one of forward, reversed, shuffled, in turn"):
        shipped().schedule("backwards")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shared_memory_is_all_ones_at_the_start_of_each_block(probe: Call, schedule: str) -> None:
    got = probe("shared_memory", words=np.zeros(3, np.uint32), threads=8, blocks=3, shared=8, schedule=schedule)
    assert (got == 0xFFFFFFFF).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shuffles_read_the_lanes_that_cuda_says(probe: Call, schedule: str) -> None:
    got = probe("shuffles", words=words(6 * 32), threads=32, schedule=schedule).reshape(6, 32)
    lane = np.arange(32)
    np.testing.assert_array_equal(got[0], np.full(32, 5))
    np.testing.assert_array_equal(got[1], lane // 8 * 8 + 3)
    np.testing.assert_array_equal(got[2], lane ^ 6)
    np.testing.assert_array_equal(got[3], np.where((lane ^ 9) // 8 > lane // 8, lane, lane ^ 9))
    np.testing.assert_array_equal(got[4], np.where(lane + 3 < 32, lane + 3, lane))
    np.testing.assert_array_equal(got[5], np.where(lane % 8 + 3 < 8, lane + 3, lane))


def test_a_shuffle_from_a_lane_that_is_not_there_gives_all_ones(probe: Call) -> None:
    got = probe("shuffle_with_absent", words=np.zeros(8, np.uint32), threads=16)
    assert (got == 0xFFFFFFFF).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warp_barrier_waits_for_the_lanes_of_its_mask(probe: Call, schedule: str) -> None:
    got = probe("half_warps", words=words(32), threads=32, schedule=schedule)
    np.testing.assert_array_equal(got, np.arange(32)[::-1])


def test_a_barrier_does_not_wait_for_threads_that_returned(probe: Call) -> None:
    got = probe("early_return", words=np.zeros(64, np.uint32), threads=64)
    np.testing.assert_array_equal(got, np.arange(64) % 2 == 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_barrier_that_cannot_open_is_reported_with_its_lines(probe: Call, schedule: str) -> None:
    with pytest.raises(host.LaunchError) as caught:
        probe("missing_threads", words=words(1), threads=64, schedule=schedule)
    assert str(caught.value) == (
        "kernel missing_threads: block (0,0,0): a barrier waits for threads that do not reach it: "
        f"24 wait in __shfl_xor_sync at probes.cu:{line('missing_lanes')}, thread (40,0,0) first; "
        f"40 wait in __syncthreads at probes.cu:{line('missing_threads')}, thread (0,0,0) first; 0 of 64 have returned"
    )
    np.testing.assert_array_equal(probe("half_warps", words=words(32), threads=32), np.arange(32)[::-1])


def test_two_barriers_do_not_stand_in_for_each_other(probe: Call) -> None:
    with pytest.raises(host.LaunchError, match="threads of one block reach different barriers") as caught:
        probe("two_barriers", words=words(1), threads=64)
    for marker in ("one_barrier", "other_barrier"):
        assert f"__syncthreads at probes.cu:{line(marker)}" in str(caught.value)


def test_lanes_must_agree_on_their_mask(probe: Call) -> None:
    with pytest.raises(host.LaunchError, match="lanes of one warp name each other in different masks"):
        probe("two_masks", words=words(1), threads=32)


def test_a_launch_that_cuda_would_refuse_is_refused() -> None:
    told = arguments.Convert(0, 0, 0)
    for kernel, grid, block, complaint in (
        ("nonsense", 1, 1, "kernel nonsense: no kernel of that name is exported"),
        ("append_1_int32", 1, 1, "kernel append_1_int32: it takes 344 bytes of arguments, not 24"),
        ("widen_float16", 0, 1, "kernel widen_float16: a grid has 1 to 2[*][*]32 - 1 blocks here, not 0"),
        ("widen_float16", 1, 2048, "kernel widen_float16: a block has 1 to 1024 threads, not 2048"),
    ):
        before = shipped().launches
        with pytest.raises(host.LaunchError, match=complaint):
            shipped().launch(kernel, (grid, 1, 1), (block, 1, 1), 0, told)
        assert shipped().launches == before


def test_every_call_with_work_is_counted_where_it_is_launched() -> None:
    k = random_bits((2, NUM_KV_HEADS, HEAD_DIM), "float16")
    before = cuda.attest()
    call("merge_kv", k, k)
    after = cuda.attest()
    assert after["launches"] == before["launches"] + 1
    assert after["mode"] in {"emulated", "compiled"}
    call("merge_kv", k[:0], k[:0])
    assert cuda.attest() == after


def test_one_compilation_serves_every_shape_and_dtype() -> None:
    before = cuda.attest()
    every_operation()
    after = cuda.attest()
    assert after["launches"] > before["launches"]
    assert after["compilations"] == before["compilations"]


def test_results_have_the_same_bits_under_each_schedule(on: Call) -> None:
    results = []
    for schedule in SCHEDULES:
        on(shipped(), schedule)
        results.append(every_operation())
    for forward, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_array_equal(bits(forward), bits(other))


def test_every_barrier_of_the_decode_kernel_is_known_here() -> None:
    assert (build.SOURCES / "attention.cuh").read_text().count("__syncthreads();") == BARRIERS


@pytest.mark.parametrize("features", [{}, every_feature()], ids=["plain", "features"])
@pytest.mark.parametrize("missing", range(BARRIERS))
def test_some_schedule_sees_a_missing_barrier(missing: int, features: dict[str, Any], tmp_path: Path, on: Call) -> None:
    mutant = host.Host(build.library(without_barrier(missing, tmp_path)))
    rng = np.random.default_rng(7)
    k, v = (rng.standard_normal((NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM)) for _ in "kv")
    num_rows = sum(Q_LENS) if features else len(KV_LENS)
    q = rng.standard_normal((num_rows, NUM_KV_HEADS * GROUP, HEAD_DIM))
    on(shipped(), "forward")
    right, _ = decode("nhd", "float32", k, v, q, 1, **features)
    wrong = []
    for schedule in SCHEDULES:
        on(mutant, schedule)
        out, _ = decode("nhd", "float32", k, v, q, 1, **features)
        wrong.append(not np.array_equal(bits(out), bits(right)))
    assert any(wrong)


# ---- building ----


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    build._directory.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    build._directory.cache_clear()


TINY = '#include "cuda_on_cpu.h"\n'


def test_builds_at_the_same_time_share_one_library(empty_cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "tiny.cu"
    source.write_text(TINY)
    with ThreadPoolExecutor() as pool:
        paths = set(pool.map(lambda _: build.library(source), range(2)))
    assert list(empty_cache.rglob("*.*")) == list(paths)
    assert host.Host(paths.pop()).launches == 0


def test_a_library_is_built_once_and_again_when_its_source_changed(empty_cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "tiny.cu"
    source.write_text(TINY)
    first = build.library(source)
    stamp = first.stat().st_mtime_ns
    assert build.library(source) == first
    assert first.stat().st_mtime_ns == stamp
    source.write_text(TINY + "\n")
    assert build.library(source) != first
    assert empty_cache in first.parents


def test_a_cache_that_cannot_be_made_is_replaced_by_a_temporary_one(empty_cache: Path, tmp_path: Path) -> None:
    empty_cache.write_text("in the way")
    source = tmp_path / "tiny.cu"
    source.write_text(TINY)
    assert build.library(source).parent.name.startswith("kvconform-cuda-")


def test_a_compile_error_is_one_sentence_and_the_compilers_lines(empty_cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "broken.cu"
    source.write_text(TINY + "int f() { return missing; }\n")
    with pytest.raises(build.BuildError) as caught:
        build.library(source)
    first, second, *_ = str(caught.value).splitlines()
    assert first.endswith("cannot compile broken.cu:")
    assert "broken.cu:2" in second
    assert "missing" in second
    assert list(empty_cache.rglob("*.*")) == []


def test_without_a_compiler_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    build.compiler.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler on PATH"):
        build.compiler()
    build.compiler.cache_clear()


@pytest.mark.parametrize("source", [build.KERNELS, build.PQ_KERNELS], ids=lambda source: source.stem)
def test_the_sources_compile_without_a_warning(source: Path) -> None:
    strict = ["-Wpedantic", "-Wshadow", "-Wconversion", "-Wold-style-cast", "-Werror"]
    command = [
        build.compiler(),
        *build.FLAGS,
        *strict,
        "-fsyntax-only",
        "-x",
        "c++",
        str(source),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")


# ---- a GPU, and its compilers ----


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def nvrtc_is_missing() -> str | None:
    """Why NVRTC cannot be called here; None: it can."""
    if not _importable("cuda.bindings.nvrtc"):
        return "cuda-bindings is not installed"
    try:
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except RuntimeError as error:
        return f"libnvrtc (nvidia-cuda-nvrtc) cannot be loaded: {error}"
    return None


@cache
def cubin(arch: str) -> tuple[bytes, str]:
    return device.compiled(arch)


@pytest.mark.skipif(nvrtc_is_missing() is not None, reason=str(nvrtc_is_missing()))
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_nvrtc_compiles_every_kernel_to_machine_code(kernel: str, arch: str) -> None:
    image, warnings = cubin(arch)
    assert warnings == ""
    assert b"\0.text." + kernel.encode() + b"\0" in image


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nvcc_compiles_the_same_source_without_a_warning(arch: str, tmp_path: Path) -> None:
    image = tmp_path / "kernels.cubin"
    command = [
        "nvcc",
        "-std=c++17",
        "-Werror",
        "all-warnings",
        f"-arch={arch}",
        "-cubin",
        str(build.KERNELS),
        "-o",
        str(image),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    assert all(b"\0.text." + kernel.encode() + b"\0" in image.read_bytes() for kernel in KERNELS)


@cache
def device_is_missing() -> str | None:
    """Why there is no GPU to be used here; None: there is one."""
    try:
        device.Device()
    except device.NoDevice as error:
        return str(error)
    return None


def test_the_adapter_names_every_kernel_there_is() -> None:
    sizes, indices = (1, 2, 4), ("int32", "int64")
    moved = [f"{name}_{size}" for name in ("merge_kv", "extract") for size in sizes]
    paged = ("append", "gather", "copy_pages")
    moved += [f"{name}_{size}_{index}" for name in paged for size in sizes for index in indices]
    merged = {f"merge_{part}_into_{dtype}" for dtype in ROUNDED for part in ("float32", dtype)}
    kinds = ("decode", "decode_features")
    decoded = [f"{kind}_{dtype}_{index}" for kind in kinds for dtype in ROUNDED for index in indices]
    decoded += [f"decode_features_{dtype}_{index}" for dtype in cuda.NARROW for index in indices]
    converted = [f"{way}_{dtype}" for way in ("widen", "narrow") for dtype in NARROW]
    assert sorted(KERNELS) == sorted([*moved, *merged, *decoded, *converted])


@pytest.mark.skipif(device_is_missing() is None, reason="there is a GPU here")
def test_insisting_on_a_device_where_there_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCONFORM_CUDA", "device")
    with pytest.raises(device.NoDevice):
        runtime.current.__wrapped__()


def test_an_unknown_place_to_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCONFORM_CUDA", "cloud")
    with pytest.raises(ValueError, match="KVCONFORM_CUDA is 'cloud': device, emulated or unset"):
        runtime.current.__wrapped__()


@pytest.mark.skipif(device_is_missing() is not None, reason=f"no GPU: {device_is_missing()}")
def test_a_gpu_moves_the_same_bits_as_the_emulator(on: Call) -> None:
    results = []
    for place in (shipped(), device.Device()):
        on(place)
        results.append(every_movement())
    for emulated, compiled in zip(*results, strict=True):
        np.testing.assert_array_equal(bits(emulated), bits(compiled))
