"""A wrong row would cancel out between generator and oracle; these are the guards that do not use the row twice.

Golden addresses stand in test_goldens.py, the independent reader in test_numpy_views.py; here is the bijection, and
that every slip in a row is caught by two of the three.
"""

from dataclasses import replace

import numpy as np
import pytest

from kvconform.specs import pattern
from kvconform.specs import row as row_module
from kvconform.specs.dtypes import width
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.pattern import LineError
from kvconform.specs.row import POSITIONS, Bytes, Field, Layout
from kvconform.specs.tables import TABLES
from kvconform.tests.geometry import AMBIGUOUS, ambiguous, sizes_of

every_row = pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))


def overlaps(row, sizes, dtype):
    """Places of a row that some other place of it overlaps; none in a right one."""
    wrong = 0
    for buffer in row.buffers:
        hits = np.zeros(8 * row.num_bytes(buffer, sizes, dtype), np.int64)
        for part in row.parts[: 1 if row.pairs_pages else None]:
            if row.buffer_of(part) == buffer:
                bits = np.arange(width(row.dtype_of(part, dtype)))
                places = row.places(part, sizes, dtype).reshape(-1, 1) + bits
                if places.min() < 0 or places.max() >= len(hits):
                    return places.size
                hits += np.bincount(places.ravel(), minlength=len(hits))
        wrong += int((hits > 1).sum())
        if not row.pad:
            wrong += int((hits == 0).sum())
    return wrong


@every_row
def test_every_row_is_a_bijection_onto_its_live_bits(row):
    """No two elements share a bit; where nothing is padded, every bit is somebody's."""
    for dtype in row.dtypes:
        assert overlaps(row, sizes_of(row, dtype), dtype) == 0
        for kind in AMBIGUOUS:
            sizes = ambiguous(row, dtype, kind)
            assert sizes is None or overlaps(row, sizes, dtype) == 0


@every_row
def test_every_bit_is_live_or_padding_and_only_padded_rows_have_any(row):
    for dtype in row.dtypes:
        sizes = sizes_of(row, dtype)
        padding = sum(int((~row.live(buffer, sizes, dtype)).sum()) for buffer in row.buffers)
        whole = sum(8 * row.num_bytes(buffer, sizes, dtype) for buffer in row.buffers)
        parts = row.parts[:1] if row.pairs_pages else row.parts
        live = sum(row.places(part, sizes, dtype).size * width(row.dtype_of(part, dtype)) for part in parts)
        assert live + padding == whole
        assert row.pad or not padding


def test_padding_is_as_large_as_the_source_says():
    sizes = {"page": 2, "slot": 3, "head": 3, "dim": 72, "rope": 64}
    share = {
        (name, dtype): LAYOUTS[name].live(buffer, sizes | LAYOUTS[name].fixed, dtype).mean()
        for name, dtype, buffer in (
            ("packed", "bfloat16", "kv"),
            ("packed", "float8_e4m3fn", "kv"),
            ("packed_unaligned", "bfloat16", "kv"),
            ("mla_scales_behind", "float8_e4m3fn", "kv_cache"),
            ("mla_aligned", "float32", "kv_cache"),
        )
    }
    assert share == {
        ("packed", "bfloat16"): 72 / 128,  # rows of 2 * 3 heads are whole pairs
        ("packed", "float8_e4m3fn"): 6 * 72 / (8 * 128),  # and not whole fours
        ("packed_unaligned", "bfloat16"): 72 / 128,
        ("mla_scales_behind", "float8_e4m3fn"): 3 * (448 + 128 + 7) / (4 * 576),  # 3 * 584 bytes, up to 576s
        ("mla_aligned", "float32"): (72 + 64) / 256,
    }


class Halved(Layout):
    """A row whose every second place falls on its neighbour."""

    def address(self, part, at, sizes, dtype):
        buffer, bits = super().address(part, at, sizes, dtype)
        return buffer, bits // 16 * 8


class Shifted(Layout):
    """A row whose last place is past its end."""

    def address(self, part, at, sizes, dtype):
        buffer, bits = super().address(part, at, sizes, dtype)
        return buffer, bits + 8


@pytest.mark.parametrize("wrong", [Halved, Shifted])
def test_overlaps_and_places_past_the_end_are_seen(wrong):
    fields, sizes = {"k": Field("page slot dim -> page slot dim")}, {"page": 2, "slot": 3, "dim": 4}
    assert overlaps(Layout(name="right", fields=fields, source=""), sizes, "int8") == 0
    assert overlaps(wrong(name="wrong", fields=fields, source=""), sizes, "int8") > 0


@every_row
def test_where_names_the_element_that_address_finds(row):
    dtype = row.dtypes[0]
    sizes = sizes_of(row, dtype)
    for part in row.parts[:1] if row.pairs_pages else row.parts:
        last = [int(g.max()) for g in row.everywhere(part, sizes, dtype)]
        buffer, bits = row.address(part, tuple(last), sizes, dtype)
        word = 8 * row.word_of(buffer, dtype).itemsize
        index = tuple(int(i) for i in np.unravel_index(int(bits) // word, row.shape(buffer, sizes, dtype)))
        told = row.where(buffer, index, sizes, dtype)
        assert told.startswith(f"{part.name}: ")
        if width(row.dtype_of(part, dtype)) >= word:
            axes = {*POSITIONS, *row.token_axes(part)}
            shown = [f"{axis} {i}" for axis, i in zip(part.axes, last, strict=True) if axis in axes]
            assert told == f"{part.name}: " + ", ".join(shown)


def test_where_says_padding():
    row, sizes = LAYOUTS["packed"], {"page": 1, "slot": 1, "head": 1, "dim": 3}
    assert row.where("kv", (0, 0, 0, 0, 2), sizes, "float32") == "k: page 0, slot 0, head 0, dim 2"
    assert row.where("kv", (0, 0, 0, 0, 3), sizes, "float32") == "padding"


@every_row
def test_every_row_says_what_it_needs(row):
    assert row.source
    assert row.table in TABLES
    assert row.dtypes
    assert set(row.fixed) <= {axis for part in row.parts for axis in part.axes}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("page slot -> page head", "axis 'slot' is on the left of '->' but not on the right"),
        ("page -> page head", "axis 'head' is on the right of '->' but not on the left"),
        ("page page -> page", "axis 'page' stands twice on the left"),
        ("page slot -> page slot page", "axis 'page' stands twice on the right"),
        ("page slot head", "has no '->'"),
        ("page (chunk x) -> page chunk x", r"\(chunk x\) cuts an axis without a name; write axis=\(chunk x\)"),
        ("page slot -> page [slot]", r"cannot read '\[slot\]' on the right"),
        ("page | slot -> page slot", r"cannot read '\|' on the left"),
        ("page slot -> (page slot), then a b -> a b", "'then' cuts 2 dimensions, but there are 1"),
        ("page slot -> page | slot, then a b -> b a", "a bar stands before 'then'"),
        ("page, slot -> page slot", "cannot read ','"),
        (" -> page", "no axis stands on the left of '->'"),
        ("page ->", "no axis stands on the right of '->'"),
    ],
)
def test_a_bad_line_is_refused_in_its_own_words(line, said):
    with pytest.raises(LineError, match=said) as refused:
        pattern.parse(line)
    assert repr(line) in str(refused.value)


def test_sizes_that_do_not_divide_are_named():
    row = LAYOUTS["split_x"]
    sizes = {"page": 1, "slot": 2, "head": 2, "dim": 12}
    assert row.admits({**sizes, "dim": 16}, "float16")
    assert row.flaw(sizes, "float16") == (
        "split_x: 'page slot head dim=(chunk x) -> page head chunk slot x': dim = 12 is not a multiple of 8 (x = 8)"
    )
    assert "slot = 2 is not a multiple of 4 (token = 4)" in LAYOUTS["nvfp4_swizzled"].flaw(
        {**sizes, "dim": 64}, "float4_e2m1fn"
    )


def test_a_dtype_that_a_row_does_not_take_is_named():
    assert LAYOUTS["code_rows"].flaw({"page": 1, "slot": 1, "subspace": 1}, "float16") == (
        "code_rows is not defined for float16; it takes uint8"
    )


def test_a_size_that_a_row_fixes_is_named():
    assert LAYOUTS["mla_656"].flaw({"page": 1, "slot": 1, "dim": 256}, "float8_e4m3fn") == (
        "mla_656 has dim = 512, not 256"
    )


def test_a_cut_without_sizes_is_refused():
    fields = {"k": Field("page slot dim=(a b) -> page slot a b")}
    with pytest.raises(LineError, match="dim is cut into a and b, and no size is known of either"):
        Layout(name="cut", fields=fields, source="").shape("k", {"page": 1, "slot": 1, "dim": 4}, "int8")


def test_bytes_are_as_many_elements_as_fit_and_never_none():
    assert [Bytes(16).elements(dtype) for dtype in ("float32", "bfloat16", "int8", "uint4")] == [4, 8, 16, 32]
    assert Bytes(2).elements("float32") == 1


def test_what_the_shapes_of_a_cache_do_not_tell_is_known():
    assert LAYOUTS["nhd"].hidden == ()
    assert LAYOUTS["packed"].hidden == ("head", "dim")
    assert LAYOUTS["cells"].hidden == ("head", "dim")
    assert LAYOUTS["token_head_scales"].hidden == ("dtype", "dim")


def test_what_a_row_remembers_is_bounded_and_right_when_asked_again(monkeypatch):
    monkeypatch.setattr(row_module, "_REMEMBERED", 8)
    row = replace(LAYOUTS["nhd"])
    sizes = {"slot": 4, "head": 2, "dim": 8}
    for page in [*range(1, 50), 1, 2, 1]:
        assert row.shape("k", {"page": page, **sizes}, "int8") == (page, 4, 2, 8)
        assert len(row._memo) < 8 + len(("measured", "record", "shape"))
    with pytest.raises(KeyError):
        row.shape("k", {"page": 1}, "int8")
