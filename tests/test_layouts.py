"""A wrong row would cancel out between generator and oracle; these are the guards that do not use the row twice."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from kvconform.impls import numpy_ref
from kvconform.oracles import memory
from kvconform.specs import pattern
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.layouts import CODES, LAYOUTS, PAGED

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())
SIZES = {"page": 3, "slot": 4, "head": 3, "dim": 32, "subspace": 5, "token": 6, "part": 2, "seq": 3}


def everywhere(row, sizes):
    return tuple(np.ogrid[tuple(slice(0, sizes[axis]) for axis in row.axes)])


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_row_is_a_bijection_onto_its_bits(row):
    for dtype in row.dtypes:
        width = 8 * DTYPES[dtype].itemsize
        hit = {name: [] for name in row.fields}
        for side in row.sides:
            name, bits = row.address(side, everywhere(row, SIZES), SIZES, dtype)
            hit[name].append(np.asarray(bits).ravel())
        for name, offsets in hit.items():
            found = np.sort(np.concatenate(offsets))
            assert np.array_equal(found, width * np.arange(math.prod(row.shape(name, SIZES, dtype)))), (name, dtype)


@pytest.mark.parametrize(
    "golden", GOLDENS, ids=[f"{g['layout']}-{g['dtype']}-{g['sizes'].get('head', 0)}heads" for g in GOLDENS]
)
def test_addresses_equal_the_source_s_own_arithmetic(golden):
    row = LAYOUTS[golden["layout"]]
    width = 8 * DTYPES[golden["dtype"]].itemsize
    assert golden["goldens"]
    for side, *at, offset in golden["goldens"]:
        assert row.address(side, tuple(at), golden["sizes"], golden["dtype"])[1] == offset * width, (side, at)


def test_goldens_cover_every_row():
    assert {g["layout"] for g in GOLDENS} == set(LAYOUTS)


@pytest.mark.parametrize("heads", [1, 2, 3, 5])
@pytest.mark.parametrize("row", [r for r in LAYOUTS.values() if r.axes in (PAGED, CODES)], ids=lambda r: r.name)
def test_plain_reshape_and_transposition_read_what_the_formula_reads(row, heads):
    """Each element is its own offset, so a wrong axis order cannot go unseen."""
    sizes = SIZES | {"head": heads}
    dtype = "float32" if row.axes == PAGED else "uint8"
    cache = {
        name: np.arange(math.prod(row.shape(name, sizes, dtype))).astype(dtype).reshape(row.shape(name, sizes, dtype))
        for name in row.fields
    }
    views = numpy_ref._views(cache, row.name)
    for side in row.sides:
        formula = memory.load(row, cache, side, everywhere(row, sizes), sizes)
        assert np.array_equal(formula, views[side].reshape(formula.shape))


@pytest.mark.parametrize("heads", [1, 2, 3, 5])
def test_plain_reshape_fuses_as_the_formula_does(heads):
    row, sizes = LAYOUTS["fused"], SIZES | {"head": heads}
    kv = np.arange(math.prod(row.shape("kv", sizes, "float32")), dtype=np.float32).reshape(
        row.shape("kv", sizes, "float32")
    )
    k, v = (memory.load(row, {"kv": kv}, side, everywhere(row, sizes), sizes) for side in row.sides)
    assert np.array_equal(numpy_ref.extract_k(kv), k)
    assert np.array_equal(numpy_ref.extract_v(kv), v)
    assert np.array_equal(numpy_ref.merge_kv(k, v), kv)


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))
def test_where_names_the_element_that_address_finds(row):
    dtype = row.dtypes[0]
    for side in row.sides:
        at = tuple(SIZES[axis] - 1 - (axis == "dim") for axis in row.axes)
        name, bits = row.address(side, at, SIZES, dtype)
        shape = row.shape(name, SIZES, dtype)
        index = tuple(int(i) for i in np.unravel_index(int(bits) // (8 * DTYPES[dtype].itemsize), shape))
        text = row.where(name, index, SIZES, dtype)
        assert text == f"{'kv'[side]}: " + ", ".join(f"{axis} {i}" for axis, i in zip(row.axes, at, strict=True))


def test_a_line_must_name_the_same_axes_on_both_sides():
    with pytest.raises(ValueError, match="both sides of '->' must name the same axes"):
        pattern.parse("page slot -> page head")
    with pytest.raises(ValueError, match="each once"):
        pattern.parse("page page -> page page")


def test_split_x_refuses_a_head_dim_that_is_not_whole_chunks():
    row = LAYOUTS["split_x"]
    assert row.admits(SIZES | {"dim": 16}, "float16")
    assert not row.admits(SIZES | {"dim": 12}, "float16")
    with pytest.raises(ValueError, match="12 is not a multiple of 8"):
        row.shape("k", SIZES | {"dim": 12}, "float16")


def test_a_wrong_row_is_seen_by_the_goldens_and_by_the_reader():
    """The guards themselves can fail: halves instead of alternation is caught by both."""
    from dataclasses import replace

    row = LAYOUTS["interleaved"]
    wrong = replace(row, fields={"kv": "kv page slot head dim -> page slot (kv head) dim"})
    golden = next(g for g in GOLDENS if g["layout"] == "interleaved" and g["sizes"]["head"] == 3)
    missed = [
        wrong.address(s, tuple(at), golden["sizes"], golden["dtype"])[1] == 16 * o for s, *at, o in golden["goldens"]
    ]
    assert not all(missed)
    kv = np.arange(math.prod(row.shape("kv", SIZES, "float32")), dtype=np.float32).reshape(
        row.shape("kv", SIZES, "float32")
    )
    read = memory.load(wrong, {"kv": kv}, 0, everywhere(row, SIZES), SIZES)
    assert not np.array_equal(read, numpy_ref._views({"kv": kv}, "interleaved")[0])
