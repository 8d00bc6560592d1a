"""The formula that people read is the one that the suite computes with."""

import re

import numpy as np
import pytest

from kvconform.specs import formula, pattern
from kvconform.specs.formula import Term, formulas, shape_text, size_names, term
from kvconform.specs.layouts import LAYOUTS

ROWS = pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))
SIZES = (
    {"page": 3, "slot": 4, "head": 3, "dim": 32, "dim_v": 16, "subspace": 5, "token": 6, "part": 2, "seq": 3},
    {"page": 2, "slot": 3, "head": 5, "dim": 12, "dim_v": 6, "subspace": 4, "token": 5, "part": 3, "seq": 2},
    {"page": 2, "slot": 64, "head": 4, "dim": 256, "dim_v": 128, "subspace": 6, "token": 2, "part": 2, "seq": 2},
)
UP = {"up": pattern.up, "__builtins__": {}}
SLOT, SIZE = Term("coordinate", ("slot",)), Term("size", ("page_size",))


def admitted(row):
    """(dtype, sizes) that the row can be built in, its fixed sizes included."""
    found = [(d, s | dict(row.fixed)) for d in row.dtypes for s in SIZES if row.admits(s | dict(row.fixed), d)]
    assert {d for d, _ in found} == set(row.dtypes)
    return found


def evaluated(one, row, part, dtype, sizes):
    """The bit of every place of a part, by the text alone."""
    names = {text: sizes[axis] for axis, text in size_names(row).items()}
    names |= {name: eval(text, UP, names) for name, text in one.where.items()}
    at = dict(zip(part.axes, row.everywhere(part, sizes, dtype), strict=True))
    return np.asarray(eval(one.text, UP, names | at)) * one.bits


@ROWS
def test_the_text_evaluates_to_every_place_of_every_part(row):
    for dtype, sizes in admitted(row):
        for part in row.parts:
            one = formulas(row, dtype)[part.name]
            places = row.places(part, sizes, dtype)
            assert np.array_equal(np.broadcast_to(evaluated(one, row, part, dtype, sizes), places.shape), places)
            assert one.buffer == row.buffer_of(part)


@ROWS
def test_the_text_evaluates_for_elements_that_share_a_place(row):
    """`everywhere` gives the first of them; the formula has to give the same place for any."""
    for dtype, sizes in admitted(row):
        for part in row.parts:
            last = tuple(sizes[axis] - 1 for axis in part.axes)
            names = {text: sizes[axis] for axis, text in size_names(row).items()}
            one = formulas(row, dtype)[part.name]
            names |= {name: eval(text, UP, names) for name, text in one.where.items()}
            names |= dict(zip(part.axes, last, strict=True))
            assert eval(one.text, UP, names) * one.bits == row.address(part, last, sizes, dtype)[1]


@ROWS
def test_the_shape_in_names_evaluates_to_the_shape(row):
    for dtype, sizes in admitted(row):
        names = {text: sizes[axis] for axis, text in size_names(row).items()}
        for buffer in row.buffers:
            shape = tuple(eval(text, UP, names) for text in shape_text(row, buffer, dtype))
            assert shape == row.shape(buffer, sizes, dtype)


@ROWS
def test_a_formula_uses_coordinates_sizes_and_up_and_nothing_else(row):
    for one in formulas(row, row.dtypes[0]).values():
        known = {*row.part(one.part).axes, *size_names(row).values(), *one.where, "up"}
        assert set(re.findall(r"[a-z_]+", " ".join([one.text, *one.where.values()]))) <= known


def test_a_wrong_formula_does_not_evaluate_to_the_places():
    """The comparison can fail: heads and slots swapped."""
    row, (dtype, sizes) = LAYOUTS["hnd"], admitted(LAYOUTS["hnd"])[0]
    wrong = formulas(LAYOUTS["nhd"], dtype)["k"]
    part = row.part("k")
    assert not np.array_equal(evaluated(wrong, row, part, dtype, sizes), row.places(part, sizes, dtype))


@pytest.mark.parametrize(
    ("layout", "dtype", "part", "text", "unit"),
    [
        (
            "hnd",
            "float16",
            "k",
            "((page * num_kv_heads + head) * page_size + slot) * head_dim + dim",
            "elements of float16",
        ),
        (
            "split_x",
            "float16",
            "k",
            "(((page * num_kv_heads + head) * (head_dim // 8) + dim // 8) * page_size + slot) * 8 + dim % 8",
            "elements of float16",
        ),
        (
            "packed",
            "bfloat16",
            "v",
            "(((page * page_size + slot) * num_kv_heads + head) * 2 + 1) * up(head_dim, 128) + dim",
            "elements of bfloat16",
        ),
        ("mla_656", "float8_e4m3fn", "rope", "(page * page_size + slot) * 656 + 528 + rope * 2", "bytes"),
        ("q4_0", "uint4", "codes", "(dim // 32) * 144 + 16 + ((dim % 16) * 2 + (dim // 16) % 2) * 4", "bits"),
    ],
)
def test_formulas_read_as_people_write_them(layout, dtype, part, text, unit):
    one = formulas(LAYOUTS[layout], dtype)[part]
    assert (one.text, one.unit) == (text, unit)


def test_a_long_record_has_a_name():
    found = formulas(LAYOUTS["nvfp4_swizzled"], "float4_e2m1fn")
    assert found["k"].text == "page * record + ((head * page_size + slot) * head_dim + dim) * 4"
    assert found["k_scale"].text.startswith("page * record + start + ")
    assert found["k_scale"].where["start"] == "num_kv_heads * page_size * head_dim * 4"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (SLOT * 1 + 0, "slot"),
        (0 * SIZE + SLOT, "slot"),
        (SLOT * 2 * 3, "slot * 6"),
        (SLOT * 2 // 2, "slot"),
        (SLOT * 2 // 4, "slot // 2"),
        (SLOT * 2 % 4, "(slot % 2) * 2"),
        ((SLOT * 2 + 1) // 4, "slot // 2"),
        ((SLOT * 2 + 1) % 4, "(slot % 2) * 2 + 1"),
        ((SLOT * 2 + 1) % 2, "1"),
        ((SLOT * 2 + 3) // 4, "(slot * 2 + 3) // 4"),
        (SLOT // 2 // 8, "slot // 16"),
        (SIZE * 576 + SIZE * 7, "page_size * 583"),
        (pattern.up(SIZE, 128), "up(page_size, 128)"),
        (pattern.up(SIZE, 1), "page_size"),
        (pattern.up(pattern.up(SIZE, 128), 32), "up(page_size, 128)"),
        (pattern.up(pattern.up(SIZE, 32), 128), "up(up(page_size, 32), 128)"),
        (pattern.up(term(7), 4), "8"),
        ((SLOT + SIZE) * SIZE, "(slot + page_size) * page_size"),
        ((SLOT // SIZE) * SIZE, "(slot // page_size) * page_size"),
    ],
)
def test_what_is_simplified_stays_equal(value, text):
    assert str(term(value)) == text


def test_simplified_terms_count_as_ints_do():
    """Every operator against Python's own, over small numbers."""
    for times in (1, 2, 3, 4, 6):
        for more in range(8):
            for by in (1, 2, 3, 4, 8):
                for slot in range(20):
                    names, number = {"slot": slot}, slot * times + more
                    for found, want in (
                        ((SLOT * times + more) // by, number // by),
                        ((SLOT * times + more) % by, number % by),
                        (SLOT // by // times, slot // by // times),
                        (pattern.up(SLOT * times + more, by), pattern.up(number, by)),
                    ):
                        assert eval(str(found), UP, names) == want, (str(found), slot)


def test_what_cannot_be_divided_says_so():
    assert (SLOT * 8 + 3).divided(8) is None
    assert SLOT.divided(2) is None
    assert str((SLOT * 8 + 16).divided(8)) == "slot + 2"
    assert term(7).divided(2) is None


def test_every_axis_of_every_row_has_a_name_for_its_size():
    for row in LAYOUTS.values():
        assert len(set(size_names(row).values())) == len(size_names(row))
    assert size_names(LAYOUTS["parts_first"])["head"] == "num_q_heads"
    assert size_names(LAYOUTS["q4_0"]) == {"dim": "num_elements"}
    assert "rope" not in size_names(LAYOUTS["mla"]), "a fixed size is a number"


def test_the_legend_of_up_tells_what_up_does():
    assert formula.UP == "up(n, m) is n rounded up to a multiple of m"
    assert (pattern.up(5, 4), pattern.up(8, 4)) == (8, 8)
