"""numpy_ref reads every row by reshape and transposition: what that finds is what the row's formula addresses.

The formula is asked for bits of the raw bytes, the views for values; a row that is wrong, or a view, parts the two.
"""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest

from kvconform.impls import numpy_ref
from kvconform.impls.numpy_kernels import codes
from kvconform.impls.numpy_kernels.views import PLAIN
from kvconform.specs.dtypes import host, width
from kvconform.specs.layouts import LAYOUTS, SIDES, Bytes
from kvconform.tests.wrong_rows import misread, same_places

ROWS = {name: row for name, row in LAYOUTS.items() if row.holds == "pages"}

TOLD = {  # what the arrays of a cache do not tell
    "packed": ("num_kv_heads", "head_dim"),
    "packed_hd64": ("num_kv_heads",),
    "packed_unaligned": ("head_dim",),
    "tokens_last": ("head_dim",),
    "fractal": ("num_kv_heads",),
    "cells": ("num_kv_heads",),
    "cells_v_transposed": ("num_kv_heads",),
    "mla_aligned": ("page_size", "head_dim"),
    "mla_packed": ("page_size", "head_dim"),
    "beside_nhd_diffkv": ("head_dim",),
    "beside_hnd_diffkv": ("head_dim",),
    "indexer_k": ("head_dim",),
    "nvfp4_swizzled": ("num_kv_heads", "head_dim"),
    "token_head_scales": ("dtype",),
}
AXIS = {"num_kv_heads": "head", "head_dim": "dim", "head_dim_v": "dim_v", "page_size": "slot"}

KINDS = {  # name -> (axis it is about, what holds of the sizes); axes of one size could hide each other
    "distinct": ("slot", lambda s: len({s[axis] for axis in SEVERAL}) == len(SEVERAL)),
    "odd heads": ("head", lambda s: s["head"] == 5),
    "two heads": ("head", lambda s: s["head"] == 2),
    "slots are heads": ("head", lambda s: s["slot"] == s["head"] and s["head"] * s["dim"] <= 4096),
    "slots are dims": ("dim", lambda s: s["slot"] == s["dim"]),
    "slots are subspaces": ("subspace", lambda s: s["slot"] == s["subspace"]),
}
SEVERAL = {  # sizes to choose from, preferred first: no multiples of what rows pad to or cut by, if it can be
    "page": (4,),
    "slot": (7, 12, 64, 128),
    "head": (6, 5, 2, 12, 64, 1, 128),
    "dim": (40, 20, 48, 96, 192, 256, 12, 32, 64, 128),
    "dim_v": (28, 24),
    "subspace": (9, 7),
}


@cache
def sizes_of(name, dtype, kind):
    """The first sizes of a kind that the row can be built in, or None."""
    row, (about, holds) = ROWS[name], KINDS[kind]
    if about not in {axis for part in row.parts for axis in part.axes}:
        return None
    choices = [(row.fixed[axis],) if axis in row.fixed else SEVERAL[axis] for axis in SEVERAL]
    for some in product(*choices):
        sizes = {**row.fixed, **dict(zip(SEVERAL, some, strict=True))}
        if holds(sizes) and not row.flaw(sizes, dtype):
            return sizes
    return None


def cells_of(name, kind):
    """(dtype, sizes): every dtype, but where axes are of one size only one of each width."""
    row = ROWS[name]
    some = row.dtypes if kind == "distinct" else {width(dtype): dtype for dtype in row.dtypes}.values()
    return [(dtype, sizes) for dtype in some if (sizes := sizes_of(name, dtype, kind))]


def told(name, sizes, dtype):
    return {word: dtype if word == "dtype" else sizes[AXIS[word]] for word in TOLD.get(name, ())}


def hashed(count, seed):
    """Bytes without a pattern."""
    x = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x >> np.uint64(56)).astype(np.uint8)


def filled(row, sizes, dtype, seed=1):
    """A cache of which every byte is hashed, padding included."""
    return {
        buffer: hashed(row.num_bytes(buffer, sizes, dtype), seed + 7 * i)
        .view(row.word_of(buffer, dtype))
        .reshape(row.shape(buffer, sizes, dtype))
        for i, buffer in enumerate(row.buffers)
    }


def raw(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def at(row, part, page, slot, inside, sizes, dtype):
    """Bit offsets of tokens, [len(page), *sizes of `inside`], the open coordinates of the axes of a token."""
    named = dict(zip(row.token_axes(part), inside, strict=True))
    lead = (..., *(None for _ in inside))
    named = {axis: grid[None] for axis, grid in named.items()} | {"page": page[lead], "slot": slot[lead]}
    bits = row.address(part, tuple(named.get(axis, np.int64(0)) for axis in part.axes), sizes, dtype)[1]
    return np.broadcast_to(bits, (len(page), *np.broadcast_shapes(*(grid.shape for grid in inside))))


def values(octets, bits, stored):
    """What lies at bit offsets of some bytes, of its dtype outside of a cache."""
    if width(stored) < 8:
        return np.take(octets, bits // 8, mode="clip") >> (bits % 8).astype(np.uint8) & (2 ** width(stored) - 1)
    assert not (bits % 8).any()
    where = bits[..., None] // 8 + np.arange(width(stored) // 8)
    return np.take(octets, where, mode="clip").view(host(stored))[..., 0]


def same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and np.array_equal(raw(found), raw(expected))


def places(row, sizes):
    """Page and slot of every place of a cache, pages in an order of their own."""
    pages = np.argsort(hashed(sizes["page"], 3), kind="stable")
    page, slot = np.divmod(np.arange(sizes["page"] * sizes["slot"]), sizes["slot"])
    return pages, pages[page], slot


def of_elements(found, counts):
    """[tokens, *token axes] with a value for every element, where several in a row share one."""
    for axis, count in enumerate(counts, 1):
        found = np.repeat(found, count // found.shape[axis], axis)
    return found


def disagreeing(row, sizes, dtype, formula=None, wrap=lambda cache: cache):
    """Parts of which gather and a formula, the row's own unless another is given, do not find the same."""
    cache, formula = filled(row, sizes, dtype), formula or row
    pages, page, slot = places(row, sizes)
    table = np.stack([pages[:2], [-1, -1], pages[2:4]])
    table = np.stack([table, table[::-1]], axis=1) if row.pairs_pages else table
    lens = np.array([2 * sizes["slot"], 0, 2 * sizes["slot"] - (sizes["slot"] + 1) // 2])
    sides = numpy_ref.gather(wrap(cache), table, lens, layout=row.name, **told(row.name, sizes, dtype))
    assert [side for side in SIDES if sides[side] is not None] == list(row.sides)
    wrong = []
    for part in formula.parts:
        found = sides[part.side][part.name] if isinstance(sides[part.side], dict) else sides[part.side]
        of = np.roll(page, 2 * sizes["slot"]) if row.pairs_pages and part.side else page
        counts = [sizes[axis] for axis in formula.token_axes(part)]
        inside = np.ogrid[tuple(slice(0, count) for count in counts)]
        bits = at(formula, part, of[: lens.sum()], slot[: lens.sum()], inside, sizes, dtype)
        expected = values(raw(cache[formula.buffer_of(part)]), bits, formula.dtype_of(part, dtype))
        if found.ndim != expected.ndim or not same(of_elements(found, counts), expected):
            wrong.append(part.name)
    return wrong


CELLS = [(name, kind) for name in ROWS for kind in KINDS if cells_of(name, kind)]


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_gather_finds_what_the_formula_addresses(name, kind):
    for dtype, sizes in cells_of(name, kind):
        assert disagreeing(ROWS[name], sizes, dtype) == [], (dtype, sizes)


def test_every_row_is_read_in_every_dtype_with_axes_of_different_sizes():
    assert {(name, dtype) for name in ROWS for dtype, _ in cells_of(name, "distinct")} == {
        (name, dtype) for name, row in ROWS.items() for dtype in row.dtypes
    }


@pytest.mark.parametrize(
    "name", ["packed", "packed_hd64", "packed_unaligned", "tokens_last", "mla_packed", "mla_aligned"]
)
def test_what_is_packed_fills_four_bytes(name):
    """The views do not ask how many are packed; the bytes would be the same."""
    row = ROWS[name]
    for dtype, sizes in cells_of(name, "distinct"):
        assert row.shape(row.buffers[0], sizes, dtype)[-2] * width(dtype) == 32


def test_every_row_that_holds_pages_is_offered_in_each_of_its_dtypes():
    for op in ("append", "gather"):
        assert numpy_ref.OFFERS[op]["layout"] == set(ROWS)
        assert numpy_ref.OFFERS[op]["dtype"] == {dtype for row in ROWS.values() for dtype in row.dtypes}


def as_argument(row, rows):
    k, v = ({part.name: rows[part.name] for part in row.of_side(side)} for side in SIDES)
    return tuple((next(iter(one.values())) if len(one) == 1 else one) if one else None for one in (k, v))


def appended(row, sizes, dtype, wrap=lambda cache: cache):
    """(what append returned, what it had to return) as bytes of every buffer; every third token is skipped."""
    cache, donor = filled(row, sizes, dtype), filled(row, sizes, dtype, seed=99)
    before = {buffer: raw(array).copy() for buffer, array in cache.items()}
    flags = {buffer: np.zeros(8 * len(octets), bool) for buffer, octets in before.items()}
    _, page, slot = places(row, sizes)
    live = np.arange(len(page)) % 3 > 0
    ways = [np.arange(len(page)) % 2 == side for side in SIDES] if row.pairs_pages else [live, live]
    rows, slots = {}, []
    for side in SIDES:
        pages, offsets = (page[ways[side]], slot[ways[side]]) if row.pairs_pages else (page, slot)
        some = live[: len(pages)]
        slots.append(np.where(some, pages * sizes["slot"] + offsets, -1))
        for part in row.of_side(side):
            bits = at(row, part, pages, offsets, row.token_grid(part, sizes, dtype), sizes, dtype)
            stored = row.dtype_of(part, dtype)
            rows[part.name] = values(raw(donor[row.buffer_of(part)]), bits, stored)
            flags[row.buffer_of(part)][bits[some][..., None] + np.arange(width(stored))] = True
    mapping = np.stack(slots) if row.pairs_pages else slots[0]
    wrapped = wrap(cache)
    found = numpy_ref.append(wrapped, *as_argument(row, rows), mapping, layout=row.name, **told(row.name, sizes, dtype))
    assert all(np.array_equal(raw(wrapped[buffer]), before[buffer]) for buffer in cache)
    assert {buffer: (a.shape, a.dtype) for buffer, a in found.items()} == {
        b: (a.shape, a.dtype) for b, a in cache.items()
    }
    masks = {buffer: np.packbits(one, bitorder="little") for buffer, one in flags.items()}
    expected = {b: (before[b] & ~masks[b]) | (raw(donor[b]) & masks[b]) for b in before}
    return {buffer: raw(array) for buffer, array in found.items()}, expected


def same_bytes(found, expected):
    return all(np.array_equal(found[buffer], expected[buffer]) for buffer in expected)


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_append_touches_only_the_bits_that_the_formula_addresses(name, kind):
    for dtype, sizes in cells_of(name, kind):
        assert same_bytes(*appended(ROWS[name], sizes, dtype)), (dtype, sizes)


def test_a_byte_that_append_should_have_left_alone_is_seen():
    found, expected = appended(ROWS["nhd"], sizes_of("nhd", "int8", "distinct"), "int8")
    for buffer in found:
        wrong = found | {buffer: found[buffer] ^ (np.arange(len(found[buffer])) == 5)}
        assert same_bytes(found, expected)
        assert not same_bytes(wrong, expected)


def stretched(cache):
    """The same contents, every axis with a stride of its own: not even neighbours in memory are neighbours."""
    found = {}
    for buffer, array in cache.items():
        storage = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
        found[buffer] = storage[tuple(slice(1, None, 2) for _ in array.shape)]
        found[buffer][...] = array
    return found


@pytest.mark.parametrize("name", ROWS)
def test_caches_may_be_views_with_any_strides(name):
    dtype = ROWS[name].dtypes[-1]
    sizes = sizes_of(name, dtype, "distinct")
    assert disagreeing(ROWS[name], sizes, dtype, wrap=stretched) == []
    assert same_bytes(*appended(ROWS[name], sizes, dtype, wrap=stretched))


# --- the guard sees wrong rows


def changed(name, **lines):
    """A row with other lines in some of its fields."""
    fields = ROWS[name].fields
    return replace(ROWS[name], fields=fields | {field: replace(fields[field], line=to) for field, to in lines.items()})


_TOKEN = "page slot head dim ->"
WRONG = {  # what is one slip away is in test_any_slip_...; these are taken from other rows
    "heads of K before those of V": changed("interleaved", kv=f"kv {_TOKEN} page slot (kv head) dim"),
    "V as in split_x": changed("shuffled_v", v=f"{_TOKEN} page head dim slot"),
    "seven scales a token": replace(ROWS["mla_scales_behind"], pad={"page |": Bytes(576)}),
    "indexer scales in every row": changed(
        "indexer_k",
        k="page slot dim -> page slot | dim",
        k_scale="page slot dim=(block [128]) -> page slot | block",
    ),
    "linear scales of V": changed(
        "nvfp4_swizzled", v_scale="page slot head dim=(block [16]) -> page | head slot block"
    ),
    "K as KIVI's other path packs it": changed("kivi_torch", k=f"{_TOKEN} page head dim slot"),
    "groups of K along dim": changed("kivi", k_scale="page slot head dim=(group [32]) -> page head slot group"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_row_parts_the_formula_from_the_views(what):
    wrong = WRONG[what]
    dtype = wrong.dtypes[-1]
    sizes = sizes_of(wrong.name, dtype, "distinct")
    assert not wrong.flaw(sizes, dtype)
    assert disagreeing(ROWS[wrong.name], sizes, dtype, formula=wrong)


@pytest.mark.parametrize("name", ROWS)
def test_any_slip_in_a_row_parts_the_formula_from_the_views(name):
    row, seen = ROWS[name], 0
    cells = [cell for kind in KINDS for cell in cells_of(name, kind)]
    for what, wrong in misread(row):
        for dtype, sizes in cells:
            if not wrong.flaw(sizes, dtype) and not same_places(row, wrong, sizes, dtype):
                assert disagreeing(row, sizes, dtype, formula=wrong), (what, dtype, sizes)
                seen += 1
                break
    assert seen >= len(row.fields)


# --- what the arrays do not tell


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in TOLD.items() for word in words])
def test_a_size_that_the_arrays_hide_is_asked_for_by_name(name, word):
    dtype = ROWS[name].dtypes[0]
    sizes = sizes_of(name, dtype, "distinct")
    some = {other: value for other, value in told(name, sizes, dtype).items() if other != word}
    with pytest.raises(TypeError, match=f"^{name}: the arrays of the cache do not tell {word}; pass {word}="):
        numpy_ref.gather(filled(ROWS[name], sizes, dtype), np.zeros((1, 1), int), np.array([1]), layout=name, **some)


def test_what_the_views_ask_for_is_what_the_rows_hide():
    assert {name for name, row in ROWS.items() if row.hidden} == set(TOLD)
    for name, words in TOLD.items():
        assert {AXIS.get(word, word) for word in words} <= set(ROWS[name].hidden), name


def test_a_keyword_that_means_nothing_is_refused():
    with pytest.raises(
        TypeError, match=r"^nhd: no keyword 'num_heads'; known: num_kv_heads, head_dim, head_dim_v, page_size, dtype"
    ):
        numpy_ref.gather({}, np.zeros((1, 1), int), np.array([1]), layout="nhd", num_heads=2)


# --- codes


@pytest.mark.parametrize("word", ["uint8", "int32"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_are_expanded_least_significant_bits_first_and_packed_again(bits, word):
    words = hashed(48, 5).view(word).reshape(2, -1)
    found = codes.expand(words, bits)
    value = [int(one) % 2 ** (8 * words.itemsize) for one in words.ravel()]
    per_word = 8 * words.itemsize // bits
    assert found.ravel().tolist() == [one >> bits * i & 2**bits - 1 for one in value for i in range(per_word)]
    assert np.array_equal(codes.pack(found, bits, words.dtype), words)


# --- attention by the same views


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_attention_over_every_plain_row_is_that_over_nhd_bit_for_bit(name):
    row, dtype = ROWS[name], "bfloat16"
    sizes = sizes_of(name, dtype, "distinct")
    heads, dim, slots = sizes["head"], sizes["dim"], sizes["slot"]
    rng = np.random.default_rng(0)
    k, v = (rng.normal(size=(4 * slots, heads, dim)).astype(host(dtype)) for _ in SIDES)
    q = rng.normal(size=(2, 2 * heads, dim)).astype(host(dtype))
    table, lens = np.array([[2, 0], [3, 1]]), np.array([2 * slots, slots])
    plain = {"k": k.reshape(4, slots, heads, dim), "v": v.reshape(4, slots, heads, dim)}
    expected = numpy_ref.paged_decode(q, plain, table, lens, layout="nhd", sm_scale=0.5)
    cache, words = filled(row, sizes, dtype), told(name, sizes, dtype)
    mapping = np.arange(4 * slots)
    if row.pairs_pages:
        cache = {"pool": np.concatenate([cache["pool"], cache["pool"]])}
        mapping, table = np.stack([mapping, mapping + 4 * slots]), np.stack([table, table + 4], axis=1)
    cache = numpy_ref.append(cache, k, v, mapping, layout=name, **words)
    found = numpy_ref.paged_decode(q, cache, table, lens, layout=name, sm_scale=0.5, **words)
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    assert np.abs(expected[0].astype(np.float32)).max() > 0.1


def test_states_and_fused_rows_are_still_merged():
    k, v = (hashed(24, seed).reshape(2, 3, 4) for seed in (1, 2))
    fused = numpy_ref.merge_kv(k, v)
    assert fused.shape == (2, 6, 4)
    assert np.array_equal(fused[:, 1], v[:, 0])
    assert np.array_equal(numpy_ref.extract_k(fused), k)
    assert np.array_equal(numpy_ref.extract_v(fused), v)
    outs, lses = np.array([[[[1.0]]], [[[3.0]]]], np.float32), np.zeros((2, 1, 1), np.float32)
    out, lse = numpy_ref.merge_states(outs, lses)
    assert out.tolist() == [[[2.0]]]
    assert lse == pytest.approx(np.log(2.0))
