"""Any two rows compared: what the comparison says is what reading one row's buffer as the other gives."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from kvconform.oracles import memory
from kvconform.specs.compare import DIFFERENT, RESHAPED, SAME, IncomparableError, compare, slices, spelled
from kvconform.specs.layouts import LAYOUTS, SIDES, Field, Layout
from kvconform.tests.geometry import sizes_of

SIZES = {"page": 2, "slot": 3, "head": 3, "dim": 16, "dim_v": 8, "subspace": 5, "token": 4, "part": 2, "seq": 3}
BESIDE, KV_FIRST = LAYOUTS["beside_nhd"], LAYOUTS["kv_first_nhd"]
WOVEN = replace(BESIDE, name="woven", fields={"kv": Field("kv page slot head dim -> page (slot kv head) dim")})
PLAIN_ROWS = [
    row
    for row in (*LAYOUTS.values(), WOVEN)
    if row.holds == "pages" and row.is_plain and not row.pairs_pages and row.admits(SIZES, "float32")
]


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_row_is_itself(row):
    for dtype in row.dtypes:
        sizes = sizes_of(row, dtype)
        found = compare(row, row, sizes, dtype)
        assert found.relation == SAME
        assert found.num_elements == sum(row.places(part, sizes, dtype).size for part in row.parts)


@pytest.mark.parametrize(
    ("left", "right", "relation"),
    [
        (LAYOUTS["nhd"], LAYOUTS["bshd"], SAME),
        (LAYOUTS["interleaved"], BESIDE, RESHAPED),
        (LAYOUTS["nhd"], KV_FIRST, RESHAPED),
        (LAYOUTS["nhd"], LAYOUTS["hnd"], DIFFERENT),
        (LAYOUTS["nhd"], BESIDE, DIFFERENT),
        (LAYOUTS["bshd"], LAYOUTS["cells"], RESHAPED),
        (LAYOUTS["packed"], LAYOUTS["interleaved"], DIFFERENT),
        (LAYOUTS["code_rows"], LAYOUTS["code_columns"], DIFFERENT),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_relations_of_known_rows(left, right, relation):
    for dtype in set(left.dtypes) & set(right.dtypes):
        assert compare(left, right, SIZES, dtype).relation == relation


def test_one_slot_a_page_makes_nhd_and_hnd_the_same_bytes():
    assert compare(LAYOUTS["nhd"], LAYOUTS["hnd"], SIZES | {"slot": 1}, "float16").relation == RESHAPED


@pytest.mark.parametrize(("left", "right"), list(product(PLAIN_ROWS, PLAIN_ROWS)), ids=lambda row: row.name)
def test_same_bytes_means_that_one_row_reads_what_the_other_wrote(left, right):
    """The bytes themselves are the judge: filled by one row's buffers, cut anew, read by the other."""
    dtype = "float32"
    numbers = 1 + np.arange(len(SIDES) * math.prod(SIZES[axis] for axis in left.axes), dtype=dtype)
    sides = numbers.reshape(len(SIDES), *(SIZES[axis] for axis in left.axes))
    written = {name: np.zeros(left.shape(name, SIZES, dtype), dtype) for name in left.buffers}
    for part, values in zip(left.parts, sides, strict=True):
        memory.store(left, written, part, left.everywhere(part, SIZES, dtype), values, SIZES, dtype)
    flat, cache = np.concatenate([array.ravel() for array in written.values()]), {}
    shapes = {name: right.shape(name, SIZES, dtype) for name in right.buffers}
    found = compare(left, right, SIZES, dtype)
    if sum(map(math.prod, shapes.values())) != flat.size:
        assert not found.same_bytes
        return
    for name, shape in shapes.items():
        cache[name], flat = flat[: math.prod(shape)].reshape(shape).copy(), flat[math.prod(shape) :]
    read = np.stack(
        [memory.load(right, cache, p, right.everywhere(p, SIZES, dtype), SIZES, dtype) for p in right.parts]
    )
    assert found.same_bytes == np.array_equal(read, sides)
    if found.same_bytes:
        assert found.first is None
    else:
        side, *at = np.argwhere(read != sides)[0]
        assert (found.first.part, list(found.first.at.values())) == ("kv"[side], at)
        assert found.num_differing == (read != sides).sum()


def test_the_first_difference_is_named_with_both_places():
    found = compare(LAYOUTS["nhd"], LAYOUTS["hnd"], SIZES, "float16")
    assert str(found.first) == "k: page 0, slot 0, head 1, dim 0: byte 32 against byte 96"
    assert f"{found.num_differing} of {found.num_elements} elements, first k: page 0" in str(found)


def test_a_row_of_two_buffers_against_one_says_what_it_takes_for_granted():
    text = str(compare(LAYOUTS["nhd"], KV_FIRST, SIZES, "float16"))
    assert text.endswith("against kv [2, 2, 3, 3, 16], where the buffers of k and v lie one behind the other")


class WithTail(Layout):
    """A row whose buffers are longer than what it addresses."""

    def num_bytes(self, buffer, sizes, dtype):
        return super().num_bytes(buffer, sizes, dtype) + 64


def test_padding_behind_equal_addresses_is_a_difference():
    tail = WithTail(name="tail", fields=BESIDE.fields, source="")
    found = compare(BESIDE, tail, SIZES, "float16")
    assert (found.relation, found.first) == (DIFFERENT, None)
    assert str(found).endswith(f"; {found.num_bytes[0]} bytes against {found.num_bytes[0] + 64}")


@pytest.mark.parametrize(
    ("left", "right", "sizes", "said"),
    [
        ("nhd", "fused", {}, "nhd holds k and v by page slot head dim, fused holds k and v by token head dim"),
        (
            "nhd",
            "split_x",
            {"dim": 12},
            "split_x cannot be built for .* head_dim 12 .*: dim = 12 is not a multiple of 8",
        ),
        (
            "nhd",
            "trtllm_blocks",
            {},
            "trtllm_blocks holds k and v by page slot head dim, K and V on pages of their own",
        ),
        (
            "nhd",
            "token_slots",
            {},
            "token_slots cannot be built for .* page_size 3, .*: token_slots has slot = 1, not 3",
        ),
        ("nhd", "mla", {"rope": 64}, "mla holds ckv by page slot dim; kpe by page slot rope"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(left, right, sizes, said):
    with pytest.raises(IncomparableError, match=said):
        compare(LAYOUTS[left], LAYOUTS[right], SIZES | sizes, "float16")


@pytest.mark.parametrize("row", PLAIN_ROWS, ids=lambda row: row.name)
def test_slices_select_one_side_and_nothing_else(row):
    dtype = "float32"
    for part in row.parts:
        name = row.buffer_of(part)
        shape = row.shape(name, SIZES, dtype)
        array = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
        mine = memory.load(row, {name: array}, part, row.everywhere(part, SIZES, dtype), SIZES, dtype)
        selection = slices(row, part, SIZES, dtype)
        if row is WOVEN:
            assert selection is None
        else:
            assert np.array_equal(np.sort(array[selection].ravel()), np.sort(mine.ravel()))


def test_slices_are_spelled_as_one_writes_them():
    spelt = {
        name: [
            spelled(slices(LAYOUTS[name], part, SIZES, "int8"), LAYOUTS[name].shape("kv", SIZES, "int8"))
            for part in LAYOUTS[name].parts
        ]
        for name in ("interleaved", "beside_nhd")
    }
    assert spelt == {
        "interleaved": ["[:, :, 0::2, :]", "[:, :, 1::2, :]"],
        "beside_nhd": ["[:, :, :, :16]", "[:, :, :, 16:]"],
    }
