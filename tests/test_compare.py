"""Any two rows compared: what the comparison says is what reading one row's buffer as the other gives."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from kvconform.claims.fused_kv import CONCATENATED
from kvconform.oracles import memory
from kvconform.specs.compare import DIFFERENT, RESHAPED, SAME, IncomparableError, compare, slices, spelled
from kvconform.specs.data import grid
from kvconform.specs.layouts import LAYOUTS, PAGED, SIDES, Layout

SIZES = {"page": 2, "slot": 3, "head": 3, "dim": 16, "subspace": 5, "token": 4, "part": 2, "seq": 3}
KV_FIRST = replace(CONCATENATED, name="kv_first", fields={"kv": "kv page slot head dim -> kv page slot head dim"})
WOVEN = replace(CONCATENATED, name="woven", fields={"kv": "kv page slot head dim -> page (slot kv head) dim"})
PAGED_ROWS = [
    *(row for row in LAYOUTS.values() if row.axes == PAGED and row.admits(SIZES, "float32")),
    CONCATENATED,
    KV_FIRST,
    WOVEN,
]


def at_all(row):
    return grid(*(SIZES[axis] for axis in row.axes))


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_row_is_itself(row):
    for dtype in row.dtypes:
        found = compare(row, row, SIZES, dtype)
        assert found.relation == SAME
        assert found.num_elements == len(row.sides) * math.prod(SIZES[axis] for axis in row.axes)


@pytest.mark.parametrize(
    ("left", "right", "relation"),
    [
        (LAYOUTS["nhd"], LAYOUTS["bshd"], SAME),
        (LAYOUTS["interleaved"], CONCATENATED, RESHAPED),
        (LAYOUTS["nhd"], KV_FIRST, RESHAPED),
        (LAYOUTS["nhd"], LAYOUTS["hnd"], DIFFERENT),
        (LAYOUTS["nhd"], CONCATENATED, DIFFERENT),
        (LAYOUTS["code_rows"], LAYOUTS["code_columns"], DIFFERENT),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_relations_of_known_rows(left, right, relation):
    for dtype in set(left.dtypes) & set(right.dtypes):
        assert compare(left, right, SIZES, dtype).relation == relation


def test_one_slot_a_page_makes_nhd_and_hnd_the_same_bytes():
    assert compare(LAYOUTS["nhd"], LAYOUTS["hnd"], SIZES | {"slot": 1}, "float16").relation == RESHAPED


@pytest.mark.parametrize(("left", "right"), list(product(PAGED_ROWS, PAGED_ROWS)), ids=lambda row: row.name)
def test_same_bytes_means_that_one_row_reads_what_the_other_wrote(left, right):
    """The bytes themselves are the judge: filled by one row's fields, cut anew, read by the other."""
    dtype = "float32"
    numbers = 1 + np.arange(len(SIDES) * math.prod(SIZES[axis] for axis in PAGED), dtype=dtype)
    sides = numbers.reshape(len(SIDES), *(SIZES[axis] for axis in PAGED))
    written = {name: np.zeros(left.shape(name, SIZES, dtype), dtype) for name in left.fields}
    for side in SIDES:
        memory.store(left, written, side, at_all(left), sides[side], SIZES)
    flat, cache = np.concatenate([array.ravel() for array in written.values()]), {}
    for name in right.fields:
        shape = right.shape(name, SIZES, dtype)
        cache[name], flat = flat[: math.prod(shape)].reshape(shape).copy(), flat[math.prod(shape) :]
    read = np.stack([memory.load(right, cache, side, at_all(right), SIZES) for side in SIDES])
    found = compare(left, right, SIZES, dtype)
    assert found.same_bytes == np.array_equal(read, sides)
    if found.same_bytes:
        assert found.first is None
    else:
        side, *at = np.argwhere(read != sides)[0]
        assert (found.first.side, list(found.first.at.values())) == ("kv"[side], at)
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

    def num_bytes(self, name, sizes, dtype):
        return super().num_bytes(name, sizes, dtype) + 64


def test_padding_behind_equal_addresses_is_a_difference():
    tail = WithTail(name="tail", axes=PAGED, fields=CONCATENATED.fields, source="")
    found = compare(CONCATENATED, tail, SIZES, "float16")
    assert (found.relation, found.first) == (DIFFERENT, None)
    assert str(found).endswith(f"; {found.num_bytes[0]} bytes against {found.num_bytes[0] + 64}")


def test_what_cannot_be_compared_is_refused_by_name():
    with pytest.raises(
        IncomparableError, match="nhd holds k and v by page slot head dim, fused holds k and v by token"
    ):
        compare(LAYOUTS["nhd"], LAYOUTS["fused"], SIZES, "float16")
    with pytest.raises(IncomparableError, match=r"split_x cannot be built for .*'dim': 12"):
        compare(LAYOUTS["nhd"], LAYOUTS["split_x"], SIZES | {"dim": 12}, "float16")


@pytest.mark.parametrize("row", PAGED_ROWS, ids=lambda row: row.name)
def test_slices_select_one_side_and_nothing_else(row):
    dtype = "float32"
    for side in SIDES:
        name = row.field_of(side)
        shape = row.shape(name, SIZES, dtype)
        array = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
        mine = memory.load(row, {name: array}, side, at_all(row), SIZES)
        selection = slices(row, side, SIZES, dtype)
        if row is WOVEN:
            assert selection is None
        else:
            assert np.array_equal(np.sort(array[selection].ravel()), np.sort(mine.ravel()))


def test_slices_are_spelled_as_one_writes_them():
    rows = {"interleaved": LAYOUTS["interleaved"], "concatenated": CONCATENATED}
    spelt = {
        name: [spelled(slices(row, side, SIZES, "int8"), row.shape("kv", SIZES, "int8")) for side in SIDES]
        for name, row in rows.items()
    }
    assert spelt == {
        "interleaved": ["[:, :, 0::2, :]", "[:, :, 1::2, :]"],
        "concatenated": ["[:, :, :, :16]", "[:, :, :, 16:]"],
    }
