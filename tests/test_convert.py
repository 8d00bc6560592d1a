"""`kvconform convert`: every place keeps its bits, in bounded memory, and what would lose bytes is refused."""

import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

from kvconform.harness import cache_files, convert, convert_command
from kvconform.harness.adapters import AdapterError
from kvconform.harness.cache_files import Stored, created, opened
from kvconform.harness.convert import Conversion, find_dtype, find_sizes
from kvconform.specs import strides, tiles
from kvconform.specs.convert import Refused, components, has_padding, move, require_same_parts, require_same_values
from kvconform.specs.dtypes import width
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.row import Field
from kvconform.specs.strides import ByIndex, Digit, boxes
from kvconform.specs.tiles import Grid, Room, tiling
from kvconform.tests import convert_speed

OTHER = {"dim_v": 24, "subspace": 5, "token": 6, "part": 2, "seq": 3, "rope": 64}
SIZES = [
    {"page": page, "slot": slot, "head": head, "dim": dim} | OTHER
    for page, slot, head, dim in (
        (3, 32, 3, 80),
        (2, 5, 3, 51),
        (3, 8, 3, 64),
        (2, 128, 2, 32),
        (3, 1, 2, 48),
        (2, 5, 3, 64),
        (2, 4, 4, 512),
        (2, 4, 4, 448),
    )
]
"""Tried in this order; the first two have padding in the rows that pad."""


def admitted(a, b, turn):
    """Sizes and dtype that both rows can be built in, another one each turn; None where nothing may move."""
    try:
        require_same_parts(a, b)
    except Refused:
        return None
    cases = [({**base, **a.fixed, **b.fixed}, dtype) for base, dtype in itertools.product(SIZES, a.dtypes)]
    cases = cases[turn % len(cases) :] + cases[: turn % len(cases)]
    for sizes, dtype in sorted(cases, key=lambda case: math.prod(case[0][axis] for axis in a.axes) > 40_000):
        with suppress(Refused):
            require_same_values(a, b, sizes, dtype)
            return sizes, dtype
    return None


PAIRS = {
    (a.name, b.name): case
    for i, (a, b) in enumerate(itertools.product(LAYOUTS.values(), repeat=2))
    if (case := admitted(a, b, len(a.dtypes) - 1 if a is b else i))  # a row itself where it pads, in its narrowest type
}


def noise(row, sizes, dtype, seed=0):
    """Every bit of a cache at random: NaNs with payloads, and padding that is not zero."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, row.num_bytes(name, sizes, dtype), dtype=np.uint8) for name in row.buffers}


def zeros(row, sizes, dtype):
    return {name: np.zeros(row.num_bytes(name, sizes, dtype), np.uint8) for name in row.buffers}


def bits(cache):
    return {name: np.unpackbits(data, bitorder="little") for name, data in cache.items()}


def by_the_formula(a, b, cache, sizes, dtype):
    """The cache of the second row, place by place."""
    fine = any(width(a.dtype_of(part, dtype)) < 8 for part in a.parts)
    piece = 1 if fine else 8
    have, want = (bits(one) if fine else one for one in (cache, zeros(b, sizes, dtype)))
    for part in a.parts:
        other, within = b.part(part.name), np.arange(width(a.dtype_of(part, dtype)) // piece)
        come, go = (row.places(of, sizes, dtype)[..., None] // piece + within for row, of in ((a, part), (b, other)))
        want[b.buffer_of(other)][go] = have[a.buffer_of(part)][come]
    return {name: np.packbits(data, bitorder="little") if fine else data for name, data in want.items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def moved(a, b, cache, sizes, dtype):
    made = zeros(b, sizes, dtype)
    move(a, b, sizes, dtype).run(cache, made)
    return made


# --- bits


@pytest.mark.parametrize("a", LAYOUTS)
def test_every_place_of_every_pair_of_rows_keeps_its_bits(a):
    others = [(b, case) for (first, b), case in PAIRS.items() if first == a]
    assert a in [b for b, _ in others]
    for b, (sizes, dtype) in others:
        cache = noise(LAYOUTS[a], sizes, dtype)
        made = moved(LAYOUTS[a], LAYOUTS[b], cache, sizes, dtype)
        assert same(made, by_the_formula(LAYOUTS[a], LAYOUTS[b], cache, sizes, dtype)), (a, b, sizes, dtype)
        back = moved(LAYOUTS[b], LAYOUTS[a], made, sizes, dtype)
        assert same(back, by_the_formula(LAYOUTS[a], LAYOUTS[a], cache, sizes, dtype)), (b, a, sizes, dtype)


def test_pairs_are_all_plain_rows_and_the_scaled_ones_that_share_parts():
    plain = {row.name for row in LAYOUTS.values() if row.is_plain and row.axes == ("page", "slot", "head", "dim")}
    plain -= {"trtllm_blocks", "kvquant", "token_slots", "packed_hd64", "tokens_last"}  # sizes or types of their own
    assert len(plain) > 15
    assert set(itertools.product(plain, plain)) <= set(PAIRS)
    for pair in (
        ("nvfp4", "nvfp4_swizzled"),
        ("kivi", "kivi_torch"),
        ("mla", "mla_aligned"),
        ("code_rows", "code_columns"),
    ):
        assert pair in PAIRS


def test_transposition_and_alternation_are_those_of_numpy():
    """An oracle without the address formula."""
    sizes, shape = {"page": 3, "slot": 4, "head": 5, "dim": 16}, (3, 4, 5, 16)
    k, v = (np.random.default_rng(i).integers(0, 1 << 16, shape, dtype=np.uint16) for i in (1, 2))
    cache = {"k": k.reshape(-1).view(np.uint8), "v": v.reshape(-1).view(np.uint8)}
    hnd = moved(LAYOUTS["nhd"], LAYOUTS["hnd"], cache, sizes, "bfloat16")
    assert np.array_equal(hnd["v"].view(np.uint16), v.transpose(0, 2, 1, 3).ravel())
    fused = moved(LAYOUTS["nhd"], LAYOUTS["interleaved"], cache, sizes, "bfloat16")
    assert np.array_equal(fused["kv"].view(np.uint16), np.stack([k, v], axis=3).ravel())
    split = moved(LAYOUTS["nhd"], LAYOUTS["split_x"], cache, sizes, "bfloat16")
    assert np.array_equal(split["k"].view(np.uint16), k.reshape(3, 4, 5, 2, 8).transpose(0, 2, 3, 1, 4).ravel())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_large_transpositions_are_those_of_numpy(dtype, monkeypatch):
    """Larger than the blocks they are made in, and no whole number of them; and back."""
    used, real = [], strides._transpose
    monkeypatch.setattr(strides, "_transpose", lambda *args: (used.append(1), real(*args)))
    sizes = {"page": 2, "slot": 600, "head": 16, "dim": 80}
    v = np.random.default_rng(0).integers(0, 200, (2, 600, 1280)).astype(dtype)
    cache = {"k": v.reshape(-1).view(np.uint8), "v": v.reshape(-1).view(np.uint8)}
    made = moved(LAYOUTS["cells"], LAYOUTS["cells_v_transposed"], cache, sizes, dtype)
    assert np.array_equal(made["v"].view(dtype), v.transpose(0, 2, 1).ravel())
    assert same(moved(LAYOUTS["cells_v_transposed"], LAYOUTS["cells"], made, sizes, dtype), cache)
    assert len(used) == 2, "V there and back"


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn"])
def test_transpositions_inside_of_other_loops_are_those_of_the_formula(name, monkeypatch):
    """Of several heads in one block, the last block of fewer; of other sizes than fill a cache line."""
    used, real = [], strides._transpose
    monkeypatch.setattr(strides, "_transpose", lambda *args: (used.append(1), real(*args)))
    monkeypatch.setattr(strides, "SCRATCH", 1 << 16)
    monkeypatch.setattr(strides, "LENGTH", 100)
    sizes = {"page": 2, "slot": 128, "head": 5, "dim": 96}
    for a, b in (("nhd", "tokens_last"), ("tokens_last", "nhd")):
        cache = noise(LAYOUTS[a], sizes, name)
        made = moved(LAYOUTS[a], LAYOUTS[b], cache, sizes, name)
        assert same(made, by_the_formula(LAYOUTS[a], LAYOUTS[b], cache, sizes, name))
    assert used


def test_a_plain_copy_of_the_bytes_would_be_seen():
    sizes, dtype = PAIRS["nhd", "hnd"]
    cache = noise(LAYOUTS["nhd"], sizes, dtype)
    assert not same(cache, by_the_formula(LAYOUTS["nhd"], LAYOUTS["hnd"], cache, sizes, dtype))


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([(i, 2 * i) for i in range(6)], [(0, [Digit(6, 1, 2)])]),
        ([(i, i % 3 + 100 * (i // 3)) for i in range(6)], [(0, [Digit(2, 3, 100), Digit(3, 1, 1)])]),
        ([(i, i % 4 + 100 * (i // 4)) for i in range(6)], [(0, [Digit(4, 1, 1)]), (4, [Digit(2, 1, 1)])]),
        ([(0, 7)], [(0, [])]),
    ],
)
def test_an_axis_is_cut_where_either_row_cuts_it(offsets, expected):
    found = boxes(np.array(offsets))
    assert [(box.start, list(box.digits)) for box in found] == expected


@pytest.mark.parametrize(("dim", "by_index"), [(32, False), (24, True)])
def test_an_address_that_is_no_sum_is_moved_by_index(dim, by_index):
    """fractal cuts (head dim) in 16: with a dim of 24 where a head begins depends on which head it is."""
    sizes = {"page": 2, "slot": 3, "head": 2, "dim": dim}
    nhd, fractal = LAYOUTS["nhd"], LAYOUTS["fractal"]
    for a, b in ((nhd, fractal), (fractal, nhd)):
        copies = move(a, b, sizes, "bfloat16").copies
        assert any(isinstance(one, ByIndex) for one in copies) is by_index
        cache = noise(a, sizes, "bfloat16")
        assert same(moved(a, b, cache, sizes, "bfloat16"), by_the_formula(a, b, cache, sizes, "bfloat16"))


@pytest.mark.parametrize("dtype", ["uint4", "uint2"])
def test_values_of_less_than_a_byte_are_moved_one_by_one(dtype):
    """No row of the table needs it; a transposition does."""
    row = LAYOUTS["kivi"]
    a, b = (
        replace(row, fields={"k": Field(f"page slot head dim -> page {to}")}, dtypes=(dtype,), word="uint8")
        for to in ("slot head dim", "dim head slot")
    )
    sizes = {"page": 2, "slot": 16, "head": 3, "dim": 16}
    cache = noise(a, sizes, dtype)
    plan = move(a, b, sizes, dtype)
    assert any(isinstance(one, ByIndex) for one in plan.copies)
    made = noise(b, sizes, dtype, seed=1)
    plan.run(cache, made)
    assert same(made, by_the_formula(a, b, cache, sizes, dtype))
    plan.clear(cache)
    assert not cache["k"].any()


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_left_of_a_cleared_cache_is_padding(name):
    row = LAYOUTS[name]
    sizes, dtype = PAIRS[name, name]
    cache = {buffer: ~data for buffer, data in zeros(row, sizes, dtype).items()}
    move(row, row, sizes, dtype).clear(cache)
    padding = {buffer: ~row.live(buffer, sizes, dtype) for buffer in row.buffers}
    assert same({buffer: data.astype(bool) for buffer, data in bits(cache).items()}, padding)
    assert has_padding(row, sizes, dtype) == any(one.any() for one in padding.values())


def test_rows_with_padding_are_among_the_pairs():
    assert {name for name in LAYOUTS if has_padding(LAYOUTS[name], *PAIRS[name, name])} >= {"packed", "mla_aligned"}


# --- what is refused


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (
            "token_head_scales",
            "nhd",
            "token_head_scales holds k_scale and v_scale, nhd does not: they would be lost",
        ),
        ("nhd", "code_rows", "nhd holds k and v, code_rows does not: they would be lost"),
        (
            "nhd",
            "token_head_scales",
            "token_head_scales holds k_scale and v_scale, nhd does not: there is nothing to fill",
        ),
        (
            "code_rows",
            "code_heads",
            "codes has the axes page slot subspace in code_rows, but page slot head subspace in",
        ),
        ("trtllm_blocks", "hnd", "trtllm_blocks keeps K and V in one pool: which page holds which is said by its"),
        ("hnd", "trtllm_blocks", "trtllm_blocks keeps K and V in one pool"),
        ("q4_0", "iq4_nl", "q4_0 is a byte format: another format means other values by the same codes"),
        ("fused", "interleaved", "k has the axes token head dim in fused, but page slot head dim in interleaved"),
    ],
)
def test_rows_of_other_parts_are_refused(a, b, text):
    with pytest.raises(Refused, match=re.escape(text)):
        require_same_parts(LAYOUTS[a], LAYOUTS[b])


@pytest.mark.parametrize(
    ("a", "b", "sizes", "dtype", "text"),
    [
        (
            "nvfp4",
            "fp4_slots",
            {"slot": 1},
            "float4_e2m1fn",
            "k_scale is float8_e4m3fn in nvfp4, but float8_e8m0fnu in",
        ),
        (
            "nhd",
            "token_slots",
            {},
            "bfloat16",
            "token_slots cannot be built for num_pages 2, page_size 16, num_kv_heads 2, head_dim 64 in bfloat16: "
            "token_slots has slot = 1, not 16",
        ),
        ("nhd", "split_x", {"dim": 12}, "bfloat16", "dim = 12 is not a multiple of 8 (x = 8)"),
        ("kivi", "kivi_torch", {}, "int8", "kivi is not defined for int8; it takes uint2, uint4"),
    ],
)
def test_values_that_do_not_fit_are_refused(a, b, sizes, dtype, text):
    sizes = {"page": 2, "slot": 16, "head": 2, "dim": 64} | sizes
    with pytest.raises(Refused, match=re.escape(text)):
        require_same_values(LAYOUTS[a], LAYOUTS[b], sizes, dtype)


def test_fewer_values_are_refused():
    row = LAYOUTS["nvfp4"]
    wider = {n: replace(f, line=f.line.replace("[16]", "[32]")) for n, f in row.fields.items()}
    with pytest.raises(
        Refused, match=r"k_scale holds one value for every 16 of dim in nvfp4, but for every 32 in wide"
    ):
        require_same_values(row, replace(row, name="wide", fields=wider), SIZES[2], "float4_e2m1fn")


# --- tiles

TILED = [
    ("nhd", "hnd"),
    ("heads_first", "nhd"),
    ("kv_first_hnd", "fractal"),
    ("cells", "cells_v_transposed"),
    ("cells_v_transposed", "bhsd"),
    ("bhsd", "packed"),
    ("split_x", "shuffled_v"),
    ("tokens_last", "hnd"),
    ("kivi", "kivi_torch"),
    ("nvfp4", "nvfp4_swizzled"),
    ("mla_packed", "mla_tokens_last"),
    ("mla_scales_behind", "mla_scales_behind"),
    ("cells_q8_0", "cells_q8_0"),
    ("kvquant", "kvquant"),
    ("fused", "fused"),
    ("q6_K", "q6_K"),
]


def tiled(a, b):
    """A cache of many slots where the row leaves the choice, in a type of both."""
    sizes, dtype = PAIRS[a, b]
    more = {"page": 7, "slot": 64, "head": 2, "dim": 1024 if a == "q6_K" else sizes["dim"], "token": 50}
    sizes = {**sizes, **more, **LAYOUTS[a].fixed, **LAYOUTS[b].fixed}
    require_same_values(LAYOUTS[a], LAYOUTS[b], sizes, dtype)
    return LAYOUTS[a], LAYOUTS[b], sizes, dtype


class InMemory(Stored):
    """A file's array that is bytes in memory."""

    def __new__(cls, data):
        return object.__new__(cls)

    def __init__(self, data):
        super().__init__("memory", data.shape, data.dtype, None, 0)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "hits", np.zeros(data.shape, int))

    def read(self, start, into):
        into[:] = self.data[start : start + len(into)]
        self.hits[start : start + len(into)] += 1

    def write(self, start, data):
        self.data[start : start + len(data)] = data
        self.hits[start : start + len(data)] += 1


@pytest.mark.parametrize(("a", "b"), TILED)
@pytest.mark.parametrize(("tile", "run"), [(1, 1), (3000, 64), (200_000, 64), (1 << 21, 1 << 16)])
def test_tiles_of_every_size_give_the_same_cache_and_touch_each_byte_once(a, b, tile, run, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", tile)
    monkeypatch.setattr(tiles, "RUN", run)
    a, b, sizes, dtype = tiled(a, b)
    cache, made = noise(a, sizes, dtype), zeros(b, sizes, dtype)
    have, want = ({name: InMemory(data) for name, data in one.items()} for one in (cache, made))
    done = []
    Conversion(a, b, sizes, dtype).run(have, want, workers=3, drop_padding=True, tell=done.append)
    assert same(made, by_the_formula(a, b, cache, sizes, dtype))
    assert sum(done) == sum(data.nbytes for data in cache.values())
    assert all((one.hits == 1).all() for one in (*have.values(), *want.values()))
    if tile == 1:
        assert len(done) > 1, "a row that is not cut at all is not in bounded memory"


@pytest.mark.parametrize(("a", "b"), [pair for pair in PAIRS if "nhd" in pair or pair in TILED])
@pytest.mark.parametrize("limit", [1 << 16, 1 << 20, 1 << 26])
def test_the_memory_asked_for_is_within_the_limit(a, b, limit):
    """Half a gigabyte or more in each row, planned and not made."""
    sizes, dtype = PAIRS[a, b]
    a, b = LAYOUTS[a], LAYOUTS[b]
    many = {"page": 20_000, "slot": 8192, "token": 1 << 20, "dim": 1 << 30 if a.axes == ("dim",) else sizes["dim"]}
    sizes = {**sizes, **many, **a.fixed, **b.fixed}
    if a.holds in ("pages", "tokens") and not {**a.fixed, **b.fixed}.get("slot"):
        assert sum(row.num_bytes(name, sizes, dtype) for row in (a, b) for name in row.buffers) > 1 << 29
    for piece in (tiling(*rows, sizes, dtype) for rows in components(a, b)):
        least = piece.bytes_of((Room(1, 1), Room(1, 1)))
        if least > limit:
            assert piece.whole.slots == 1 or "fractal" in (a.name, b.name), "slots can be cut smaller"
            with pytest.raises(Refused, match=rf"takes {least} bytes of memory, more than the limit of {limit}$"):
                piece.steps(limit)
            continue
        steps = piece.steps(limit)
        assert 0 < piece.bytes_of(steps.rooms) <= limit
        assert all(room.slots >= steps.inner for room in steps.rooms)


@pytest.mark.parametrize("workers", [1, 2, 3, 40])
@pytest.mark.parametrize(("a", "b"), [pair for pair in TILED if pair[0] != "kvquant"])
def test_workers_share_the_limit(a, b, workers):
    piece = tiling(*tiled(a, b))
    for limit in (piece.least, 2 * piece.least, 1 << 24):
        steps, count = convert._shares(piece, limit, workers)
        assert 1 <= count <= workers
        assert count * piece.bytes_of(steps.rooms) <= limit
    assert convert._shares(piece, piece.least, workers)[1] == 1
    assert count == min(workers, limit // piece.least)


def test_what_is_refused_is_the_first_that_is_wrong_and_ends_the_work(monkeypatch):
    """Padding of the second page holds something, and of all after it; the second page is slow."""
    monkeypatch.setattr(tiles, "TILE", 1)
    a, b, sizes, dtype = LAYOUTS["packed"], LAYOUTS["nhd"], NHD | {"page": 64}, "bfloat16"
    cache = zeros(a, sizes, dtype)
    padding = np.flatnonzero(~a.live("kv", sizes, dtype).reshape(-1, 8).any(axis=1))
    size = len(cache["kv"]) // 64
    cache["kv"][padding[padding >= size]] = 1
    have, want = ({name: InMemory(data) for name, data in one.items()} for one in (cache, zeros(b, sizes, dtype)))
    before, real = threading.active_count(), InMemory.read
    monkeypatch.setattr(
        InMemory, "read", lambda one, start, into: (time.sleep(0.1 * (start == size)), real(one, start, into))
    )
    done = []
    with pytest.raises(Refused, match=f"byte {padding[padding >= size][0]} of kv is padding"):
        Conversion(a, b, sizes, dtype).run(have, want, workers=4, tell=done.append)
    assert sum(done) == size, "what is told is done, and all before it"
    assert threading.active_count() == before
    assert have["kv"].hits.sum() < 4 * size, "no work is begun that is of no use"


def test_nobody_works_on_when_an_interrupt_comes_between_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 1)
    a, b, sizes, dtype = LAYOUTS["nhd"], LAYOUTS["hnd"], NHD | {"page": 64}, "bfloat16"
    have, want = ({n: InMemory(data) for n, data in zeros(row, sizes, dtype).items()} for row in (a, b))

    def interrupted(done):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        Conversion(a, b, sizes, dtype).run(have, want, workers=4, tell=interrupted)
    assert threading.active_count() == before
    assert 0 < want["k"].hits.sum() < want["k"].hits.size


def test_a_grid_that_misplaces_a_corner_is_not_used():
    right = tiling(LAYOUTS["heads_first"], LAYOUTS["nhd"], {"page": 4, "slot": 4, "head": 4, "dim": 16}, "float32")
    assert right.grids[0]["k"] == Grid(before=4, pages=4, between=1, slots=4, unit=64)
    wrong = replace(right, grids=({**right.grids[0], "k": Grid(1, 4, 4, 4, 64)}, right.grids[1]))
    assert tiles._agrees(right, 0)
    assert not tiles._agrees(wrong, 0)


def test_pieces_that_share_no_buffer_are_converted_apart():
    def names(a, b):
        return [(one.buffers, other.buffers) for one, other in components(LAYOUTS[a], LAYOUTS[b])]

    assert names("nhd", "hnd") == [(("k",), ("k",)), (("v",), ("v",))]
    assert names("nhd", "interleaved") == [(("k", "v"), ("kv",))]
    assert len(names("kivi", "kivi_torch")) == 6


# --- files


def save(path, row, cache, sizes, dtype):
    """Write a cache through the module's own writer."""
    arrays = {name: (row.shape(name, sizes, dtype), row.word_of(name, dtype)) for name in row.buffers}
    with created(path, arrays, row.name) as made:
        for name, data in cache.items():
            made[name].write(0, data)


def load(path, row):
    with opened(path, row.buffers, row.name) as arrays:
        found = {name: np.zeros(one.nbytes, np.uint8) for name, one in arrays.items()}
        for name, one in arrays.items():
            one.read(0, found[name])
    return found


def run(*arguments):
    """`kvconform convert`, in this process."""
    return convert_command.convert.main(args=[str(one) for one in arguments], standalone_mode=False)


def refusal(*arguments):
    with pytest.raises(AdapterError) as e:
        run(*arguments)
    return str(e.value)


NHD = {"page": 4, "slot": 8, "head": 3, "dim": 16}


@pytest.fixture
def nhd(tmp_path):
    """A cache in bfloat16 in two .npy files, as a pattern."""
    path = tmp_path / "cache.{}.npy"
    save(path, LAYOUTS["nhd"], noise(LAYOUTS["nhd"], NHD, "bfloat16"), NHD, "bfloat16")
    return path


@pytest.mark.parametrize("there", ["out.{}.npy", "out.safetensors"])
def test_there_and_back_is_the_same_file(nhd, tmp_path, there, capsys):
    assert run("nhd", "hnd", nhd, tmp_path / there, "--dtype", "bfloat16") == 0
    assert run("hnd", "nhd", tmp_path / there, tmp_path / "back.{}.npy", "--dtype", "bfloat16", "--compare-copy") == 0
    for name in "kv":
        assert (tmp_path / f"back.{name}.npy").read_bytes() == (tmp_path / f"cache.{name}.npy").read_bytes()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"nhd -> hnd: 6144 bytes read, 6144 written in \d+\.\d\d s, \d+ MB/s", lines[0])
    assert re.search(r"MB/s; a plain copy \d+ MB/s, so \d+\.\d\d of it$", lines[1])
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_the_payload_of_a_nan_survives(tmp_path):
    k = np.array([0x7FA00001, 0xFFC12345, 0x80000000, 1] * 32, np.uint32).view(np.float32).reshape(2, 2, 2, 16)
    for name in "kv":
        np.save(tmp_path / f"in.{name}.npy", k)
    run("nhd", "split_x", tmp_path / "in.{}.npy", tmp_path / "out.{}.npy")
    found = np.load(tmp_path / "out.v.npy")
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), k.transpose(0, 2, 3, 1).view(np.uint32).copy())


def test_padding_of_the_output_is_zero(nhd, tmp_path):
    run("nhd", "packed", nhd, tmp_path / "out.npy", "--dtype", "bfloat16")
    row, made = LAYOUTS["packed"], load(tmp_path / "out.npy", LAYOUTS["packed"])
    assert not bits(made)["kv"][~row.live("kv", NHD, "bfloat16")].any()
    assert same(made, by_the_formula(LAYOUTS["nhd"], row, load(nhd, LAYOUTS["nhd"]), NHD, "bfloat16"))
    back = ("--dtype", "bfloat16", "--num-kv-heads", 3, "--head-dim", 16)
    run("packed", "nhd", tmp_path / "out.npy", tmp_path / "back.{}.npy", *back)
    assert (tmp_path / "back.k.npy").read_bytes() == (tmp_path / "cache.k.npy").read_bytes()


def test_padding_that_is_not_zero_is_refused_unless_it_may_be_dropped(tmp_path):
    row, path, out = LAYOUTS["packed"], tmp_path / "in.npy", tmp_path / "out.{}.npy"
    cache = zeros(row, NHD, "bfloat16")
    padding = np.flatnonzero(~row.live("kv", NHD, "bfloat16").reshape(-1, 8).any(axis=1))
    cache["kv"][padding[[40, 4000]]] = 0x7F, 1
    save(path, row, cache, NHD, "bfloat16")
    given = ("packed", "nhd", path, out, "--dtype", "bfloat16", "--num-kv-heads", 3, "--head-dim", 16)
    assert refusal(*given) == (
        f"{path}: byte {padding[40]} of kv is padding in packed but holds 0x7f, which would be lost; "
        "--drop-padding drops it"
    )
    assert list(tmp_path.iterdir()) == [path]
    assert run(*given, "--drop-padding") == 0
    assert not any(data.any() for data in load(out, LAYOUTS["nhd"]).values())


def test_safetensors_own_library_reads_what_is_written_and_the_other_way_round(nhd, tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    run("nhd", "hnd", nhd, tmp_path / "a.safetensors", "--dtype", "bfloat16")
    found = library.load_file(tmp_path / "a.safetensors")
    k = np.load(tmp_path / "cache.k.npy")
    assert found["k"].dtype == torch.bfloat16
    assert np.array_equal(found["k"].view(torch.uint16).numpy(), k.transpose(0, 2, 1, 3))
    library.save_file(found, tmp_path / "b.safetensors", metadata={"layout": "hnd"})
    run("hnd", "nhd", tmp_path / "b.safetensors", tmp_path / "back.{}.npy")
    assert (tmp_path / "back.k.npy").read_bytes() == (tmp_path / "cache.k.npy").read_bytes()


@pytest.mark.parametrize(("dtype", "code"), [("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2"), ("int8", "I8")])
def test_types_have_safetensors_names(tmp_path, dtype, code):
    row = LAYOUTS["nhd"]
    save(tmp_path / "a.safetensors", row, noise(row, NHD, dtype), NHD, dtype)
    with opened(tmp_path / "a.safetensors", row.buffers, "nhd") as arrays:
        assert find_dtype(row, arrays, None) == dtype
    data = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["k"] == {"dtype": code, "shape": [4, 8, 3, 16], "data_offsets": [0, 1536]}


@pytest.mark.parametrize("raw", [np.uint16, np.int16, "V2"])
def test_bits_without_a_name_are_taken_as_the_dtype_that_is_given(tmp_path, raw):
    k = np.random.default_rng(0).integers(0, 1 << 16, (2, 2, 3, 16), dtype=np.uint16)
    for name in "kv":
        np.save(tmp_path / f"in.{name}.npy", k.view(raw))
    run("nhd", "hnd", tmp_path / "in.{}.npy", tmp_path / "out.{}.npy", "--dtype", "bfloat16")
    found = np.load(tmp_path / "out.k.npy")
    assert found.dtype == np.uint16
    assert np.array_equal(found, k.transpose(0, 2, 1, 3))
    assert refusal("nhd", "hnd", tmp_path / "in.{}.npy", tmp_path / "no.{}.npy").endswith(
        " may be nhd in float16 or bfloat16: give --dtype"
    )


def test_a_type_that_no_cache_is_in_is_not_asked_for(tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((2, 4, 8), np.float64))
    text = refusal("code_rows", "code_columns", tmp_path / "in.npy", tmp_path / "out.npy")
    assert text == f"{tmp_path / 'in.npy'}: codes of float64, but code_rows is defined for uint8"


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (
            (5, 8, 3, 16),
            "and v of shape (5, 8, 3, 16): not of one cache in nhd, they differ in --num-pages",
        ),
        ((0, 8, 3, 16), "cache.v.npy: v of shape (0, 8, 3, 16) holds nothing"),
    ],
)
def test_arrays_that_are_not_of_one_cache_are_refused(nhd, tmp_path, shape, text):
    np.save(tmp_path / "cache.v.npy", np.zeros(shape, np.uint16))
    assert refusal("nhd", "hnd", nhd, tmp_path / "out.npz", "--dtype", "bfloat16").endswith(".npy or .safetensors")
    assert refusal("nhd", "hnd", nhd, tmp_path / "out.safetensors", "--dtype", "bfloat16").endswith(text)


# --- sizes


_BOTH = "--num-kv-heads and --head-dim"
ASKED = {
    "packed": _BOTH,
    "packed_unaligned": "--head-dim",
    "tokens_last": "--head-dim",
    "fractal": _BOTH,
    "cells": _BOTH,
    "cells_v_transposed": _BOTH,
    "packed_hd64": "--num-kv-heads",
    "mla_aligned": "--page-size and --head-dim",
    "mla_packed": "--page-size and --head-dim",
    "indexer_k": "--page-size and --head-dim",
    "nvfp4_swizzled": f"--page-size and {_BOTH}",
    "beside_nhd_diffkv": "--head-dim and --head-dim-v",
    "beside_hnd_diffkv": "--head-dim and --head-dim-v",
}
"""Row -> what its shapes leave open: padded axes, and axes in one dimension."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_sizes_are_read_off_the_shapes_or_asked_for(name):
    row = LAYOUTS[name]
    sizes, dtype = PAIRS[name, name]
    axes = {axis for part in row.parts for axis in part.axes}
    sizes = {axis: size for axis, size in sizes.items() if axis in axes}
    arrays = {b: Stored("in", row.shape(b, sizes, dtype), row.word_of(b, dtype), None, 0) for b in row.buffers}
    assert find_sizes(row, arrays, {axis: n for axis, n in sizes.items() if axis not in row.fixed}, dtype) == sizes
    if name not in ASKED:
        assert find_sizes(row, arrays, {}, dtype) == sizes
        return
    with pytest.raises(Refused) as e:
        find_sizes(row, arrays, {}, dtype)
    assert str(e.value).endswith(f"a cache in {name}: give {ASKED[name]}")


def test_what_the_shapes_do_not_say_is_asked_for():
    def asked(name, shape, **given):
        row = LAYOUTS[name]
        arrays = {b: Stored("in", shape, row.word_of(b, "bfloat16"), None, 0) for b in row.buffers}
        with pytest.raises(Refused) as e:
            find_sizes(row, arrays, given, "bfloat16")
        return str(e.value)

    assert asked("cells", (2, 8, 64)).endswith(
        "k of shape (2, 8, 64) and v of shape (2, 8, 64): this does not say all sizes of a cache in cells: "
        "give --num-kv-heads and --head-dim"
    )
    assert asked("packed", (2, 8, 4, 2, 128)).endswith("a cache in packed: give --head-dim")
    assert asked("cells", (2, 8, 64), head=4, dim=16, page=2, slot=9).endswith("the file's is (2, 8, 64)")


@pytest.mark.parametrize(
    ("name", "shape", "given", "said"),
    [
        (
            "interleaved",
            (2, 8, 7, 64),
            {},
            "kv of shape (2, 8, 7, 64): no --num-kv-heads gives that in interleaved (kv",
        ),
        ("cells", (2, 8, 64), {"head": 3}, "no --head-dim gives that with --num-kv-heads 3 in cells (page slot head"),
        (
            "packed",
            (2, 8, 4, 2, 130),
            {},
            "no --head-dim gives that in packed (kv page slot head dim -> page slot (head",
        ),
    ],
)
def test_shapes_that_no_size_gives_are_refused_and_nothing_is_asked_for(name, shape, given, said):
    row = LAYOUTS[name]
    arrays = {b: Stored("in", shape, row.word_of(b, "bfloat16"), None, 0) for b in row.buffers}
    with pytest.raises(Refused) as e:
        find_sizes(row, arrays, given, "bfloat16")
    assert said in str(e.value)
    assert "give --" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ("--num-kv-heads", 4),
            "cache.k.npy: k of nhd (page slot head dim -> page slot head dim) has the shape (4, 8, 4, 16) for "
            "--num-pages 4, --page-size 8, --num-kv-heads 4, --head-dim 16; the file's is (4, 8, 3, 16)",
        ),
        (
            ("--dtype", "float32"),
            "cache.k.npy: k is of uint16; in nhd, in float32, it is of float32, or of integers",
        ),
        (("--dtype", "bfloat61"), "no dtype 'bfloat61'; did you mean 'bfloat16'?"),
        (("--dtype", "uint4"), "nhd is not defined for uint4; it takes float32,"),
        (("--memory", 0), "0 is not in the range"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(nhd, tmp_path, options, text):
    if options[0] == "--memory":
        with pytest.raises(click.UsageError, match=text):
            run("nhd", "hnd", nhd, tmp_path / "out.{}.npy", *options)
        return
    given = ("nhd", "hnd", nhd, tmp_path / "out.{}.npy", *options)
    assert text in refusal(*given, *(() if "--dtype" in options else ("--dtype", "bfloat16")))


def test_an_axis_that_the_row_has_not_is_refused(tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((2, 4, 64 + 64), np.float16))
    text = refusal("mla", "mla_aligned", tmp_path / "in.npy", tmp_path / "out.npy", "--num-kv-heads", 2)
    assert text == "--num-kv-heads: mla has no such axis, only page, slot, dim, rope"


# --- files that are refused


def test_files_that_are_no_cache_are_refused(nhd, tmp_path):
    def text(source, a="nhd", b="hnd", out="out.safetensors"):
        return refusal(a, b, source, tmp_path / out, "--dtype", "bfloat16")

    k = tmp_path / "cache.k.npy"
    whole = k.read_bytes()
    assert text(nhd, b="hn") == text(nhd, b="HND").replace("HND", "hn") == "no layout 'hn'; did you mean 'hnd'?"
    assert text(tmp_path / "no.{}.npy") == f"{tmp_path / 'no.k.npy'}: there is no such file"
    assert text(k).endswith(
        "holds one array; write {} for cache.k.k.npy and cache.k.v.npy".format(tmp_path / "cache.k.{}.npy")
    )
    assert text(nhd, out="out.npy").endswith("for out.k.npy and out.v.npy")
    assert text(tmp_path / "cache.bin") == f"{tmp_path / 'cache.bin'}: a cache's file ends in .npy or .safetensors"
    assert text(nhd, out="no/out.safetensors").endswith(f"there is no folder {tmp_path / 'no'}")
    for data, what in (
        (whole[:-1], f"{k} is {len(whole) - 1} bytes long; its header says {len(whole)}"),
        (whole + b"x", f"{k} is {len(whole) + 1} bytes long; its header says {len(whole)}"),
        (b"PK" + whole, f"{k} is no .npy file that can be read: "),
    ):
        k.write_bytes(data)
        assert text(nhd).startswith(what)
    for array, what in (
        (np.asfortranarray(np.zeros((4, 8, 3, 16), np.uint16)), "the array is in Fortran order; save it in C order"),
        (np.zeros((4, 8, 3, 16), ">u2"), "is big-endian (>u2); a cache is little-endian"),
        (np.zeros((4, 8, 48), np.uint16), "has 4 dimensions, the file's array has the shape (4, 8, 48)"),
        (np.zeros((4, 8, 3, 16), np.float16), "k is of float16; in nhd, in bfloat16, it is of bfloat16"),
    ):
        np.save(k, array)
        assert what in text(nhd)
    assert not (tmp_path / "out.safetensors").exists()


def test_safetensors_files_that_are_no_cache_are_refused(tmp_path):
    path, row = tmp_path / "a.safetensors", LAYOUTS["nhd"]

    def text(header, data=b"", a="nhd"):
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        return refusal(a, "hnd", path, tmp_path / "out.safetensors")

    one = {"dtype": "BF16", "shape": [1, 1, 1, 2], "data_offsets": [0, 4]}
    two = {**one, "data_offsets": [4, 8]}
    assert text({"k": one}, b"1234") == f"{path} does not hold v; the buffers of nhd are k and v"
    assert text({"k": one, "v": two, "k_scale": one}) == f"{path} also holds k_scale; the buffers of nhd are k and v"
    assert text({"k": one, "v": two}, b"1234").endswith(" bytes long; its header says " + str(path.stat().st_size + 4))
    assert text({"k": one, "v": {**two, "dtype": "F64"}}, b"12345678").startswith(
        f"{path}: v is of type F64; known: F32"
    )
    assert text({"k": one, "v": {**two, "shape": [3]}}, b"12345678").endswith(
        "v is BF16 of shape (3,), but 4 bytes long"
    )
    for offsets, said in (
        ([0, 4], "v begins at byte 0 of the data; one behind another, it would at 4"),
        ([6, 10], "v begins at byte 6 of the data; one behind another, it would at 4"),
        ([-4, 0], "v begins at byte -4 of the data; one behind another, it would at 0"),
    ):
        assert text({"k": one, "v": {**one, "data_offsets": offsets}}, b"1234567890") == f"{path}: {said}"
    for wrong in ({"data_offsets": [0, 4, 4]}, {"shape": [-1, -1, 1, 2]}, {"shape": None}):
        assert text({"k": {**one, **wrong}, "v": two}, b"12345678").startswith(f"{path} is no .safetensors file that ")
    assert text(b"[]").startswith(f"{path} is no .safetensors file that can be read: ")
    assert text(b"{").startswith(f"{path} is no .safetensors file that can be read: ")
    path.write_bytes((1 << 40).to_bytes(8, "little"))
    assert "its header would be 1099511627776 bytes long" in refusal("nhd", "hnd", path, tmp_path / "out.safetensors")
    assert row.buffers == ("k", "v")


# --- the output


def test_a_file_that_is_there_is_replaced_only_on_request(nhd, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    given = ("nhd", "hnd", nhd, out, "--dtype", "bfloat16")
    assert refusal(*given) == f"{out} is there already; --force replaces it"
    assert out.read_text() == "precious"
    assert run(*given, "--force") == 0
    assert load(out, LAYOUTS["hnd"])


def test_a_folder_is_neither_read_nor_replaced(nhd, tmp_path):
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert refusal("nhd", "hnd", folder, tmp_path / "out.safetensors") == f"{folder} is no file"
    text = refusal("nhd", "hnd", nhd, folder, "--dtype", "bfloat16", "--force")
    assert text == f"{folder} is there already, and is no file that can be replaced"
    assert folder.is_dir()


def test_a_file_that_cannot_be_made_is_called_by_its_own_name(nhd, tmp_path, monkeypatch):
    def refuses(name, mode="r"):
        if "x" in mode:
            raise PermissionError(13, "Permission denied", str(name))
        return io.FileIO(name, mode)

    monkeypatch.setattr(cache_files, "FileIO", refuses)
    out = tmp_path / "out.safetensors"
    assert refusal("nhd", "hnd", nhd, out, "--dtype", "bfloat16") == f"{out}: Permission denied"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out.npy"
    with pytest.raises(Refused, match="is there already"), created(out, {"kv": ((2,), np.dtype("f4"))}, "fused"):
        out.write_text("precious")
    assert out.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [out]


def test_reads_and_writes_that_come_in_pieces_are_put_together(tmp_path, monkeypatch):
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda file, into, at: read(file, [into[0][:3]], at))
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:3], at))
    (tmp_path / "slow").write_bytes(bytes(12))
    with io.FileIO(tmp_path / "slow", "rb+") as file:
        one = Stored("slow", (8,), np.dtype(np.uint8), file, 2)
        one.write(0, np.arange(1, 9, dtype=np.uint8))
        into = np.zeros(5, np.uint8)
        one.read(2, into)
        assert (tmp_path / "slow").read_bytes() == bytes([0, 0, *range(1, 9), 0, 0])
        assert into.tolist() == [3, 4, 5, 6, 7]
        with pytest.raises(Refused, match="slow ends before its array does"):
            one.read(9, into)


@pytest.mark.parametrize("link", ["same", os.link, os.symlink], ids=["same", "hard", "soft"])
def test_a_file_is_never_read_and_written(nhd, tmp_path, link):
    out = nhd
    if link != "same":
        out = tmp_path / "other.{}.npy"
        link(tmp_path / "cache.v.npy", tmp_path / "other.v.npy")
    before = (tmp_path / "cache.v.npy").read_bytes()
    text = refusal("nhd", "hnd", nhd, out, "--dtype", "bfloat16", "--force")
    assert text.endswith(".npy is read and written; give OUT another name")
    assert (tmp_path / "cache.v.npy").read_bytes() == before


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "interrupt"]
)
def test_a_half_written_file_is_never_left(nhd, tmp_path, monkeypatch, error):
    out, real, calls = tmp_path / "out.safetensors", Stored.write, []
    out.write_text("precious")

    def fails(self, start, data):
        calls.append(start)
        if len(calls) == 2:
            assert [one for one in tmp_path.iterdir() if one.name.endswith(".part")]
            raise error
        real(self, start, data)

    monkeypatch.setattr(cache_files.Stored, "write", fails)
    with pytest.raises(AdapterError if isinstance(error, OSError) else click.Abort):
        run("nhd", "hnd", nhd, out, "--dtype", "bfloat16", "--force")
    assert len(calls) == 2
    assert out.read_text() == "precious"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cache.k.npy", "cache.v.npy", "out.safetensors"]


def test_a_limit_below_the_least_tile_is_refused_and_named(tmp_path):
    row = LAYOUTS["tokens_last"]
    sizes = {"page": 1, "slot": 128, "head": 32, "dim": 64}
    save(tmp_path / "in.npy", row, zeros(row, sizes, "float32"), sizes, "float32")
    given = ("tokens_last", "nhd", tmp_path / "in.npy", tmp_path / "out.{}.npy", "--head-dim", 64)
    text = refusal(*given, "--memory", 1)
    assert text.endswith(
        "the least that can be moved at once takes 4194304 bytes of memory, more than the limit of 1048576"
    )
    assert run(*given, "--memory", 4) == 0


PEAK = """
import resource, sys
from kvconform.harness.convert_command import convert
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (10 if sys.platform == "darwin" else 0)
convert.main(args=sys.argv[1:3] + ["small.safetensors", "warm.safetensors", "--head-dim", "64"], standalone_mode=False)
before = peak()
convert.main(args=sys.argv[1:], standalone_mode=False)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
@pytest.mark.parametrize(("a", "b"), [("cells_v_transposed", "cells"), ("heads_first", "interleaved")])
def test_a_file_larger_than_the_limit_is_converted_within_it(tmp_path, a, b):
    """64 MiB with 8 MiB of memory: what the process grows by is near the limit."""
    row = LAYOUTS[a]
    for name, slots in (("small", 16), ("big", 65536)):
        sizes = (
            {"page": 1, "slot": slots, "head": 4, "dim": 64}
            if row.contiguous
            else {"page": slots // 16, "slot": 16, "head": 4, "dim": 64}
        )
        with created(
            tmp_path / f"{name}.safetensors", {n: (row.shape(n, sizes, "float16"), np.dtype("f2")) for n in "kv"}, a
        ):
            pass
    assert (tmp_path / "big.safetensors").stat().st_size > 64 << 20
    command = [
        sys.executable,
        "-c",
        PEAK,
        a,
        b,
        "big.safetensors",
        "out.safetensors",
        "--memory",
        "8",
        "--head-dim",
        "64",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 16 << 10


# --- the page of speeds


def test_the_page_of_speeds_has_a_row_for_each_pair_on_each_file_system():
    text = (Path(__file__).parent.parent / "docs" / "results" / "convert.md").read_text()
    rows = [tuple(line.strip("| ").split(" | ")) for line in text.splitlines() if line.startswith("| ")][2:]
    for system in {row[3] for row in rows}:
        assert [row[:3] for row in rows if row[3] == system] == list(convert_speed.PAIRS)
    ratios = [[float(row[i]) for row in rows] for i in (6, 7)]
    least = f"The least is {min(ratios[0]):.2f} by the clock, and {min(ratios[1]):.2f} in processor time."
    assert least in " ".join(text.split())


def test_speeds_are_measured_of_conversions_that_can_be_made(tmp_path, monkeypatch, capsys):
    for a, b, dtype in convert_speed.PAIRS:
        rows = LAYOUTS[a], LAYOUTS[b]
        require_same_parts(*rows)
        require_same_values(*rows, convert_speed.sizes_of(*rows, dtype, 1 << 29), dtype)
    given = ["--mib", "1", "--rounds", "1", "--only", "packed:nhd", "--on", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["convert_speed.py", *given])
    convert_speed.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"\| packed \| nhd \| bfloat16 \| \w+ \| \d+ \| \d+ \| \d+\.\d\d \| \d+\.\d\d \|", last)
    assert not list(tmp_path.iterdir())
