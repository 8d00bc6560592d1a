"""An input in another form differs in what the form says, and in nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from kvconform.oracles import memory, paged
from kvconform.specs import variations
from kvconform.specs.case import Case
from kvconform.specs.inputs import inputs

ONE = Case(
    op="paged_decode",
    layout="nhd",
    dtype="float32",
    kv_lens=(5, 0, 3, 4),
    page_size=2,
    num_kv_heads=3,
    group=2,
    head_dim=4,
)


def same_elsewhere(x, other):
    return all(np.array_equal(a, b) for a, b in zip(x.tables, other.tables, strict=True)) and x.case == other.case


@pytest.mark.parametrize("contents", ["finite", "nan"])
@pytest.mark.parametrize("seq", [0, 1, 3])
def test_other_neighbours_are_other_in_all_they_hold_and_the_row_is_the_same(contents, seq):
    x = inputs(ONE)
    other = variations.with_other_neighbours(x, seq, contents)
    assert same_elsewhere(x, other)
    kept = x.owners[0] == seq
    for name in ("k", "v"):
        was, now = x.tokens[name], other.tokens[name]
        assert np.array_equal(was[kept], now[kept])
        assert not (was[~kept] == now[~kept]).any()
        assert np.isnan(now[~kept]).all() == (contents == "nan")
    assert np.array_equal(other.q[seq], x.q[seq])
    assert not (np.delete(other.q, seq, 0) == np.delete(x.q, seq, 0)).any()


def test_heads_in_another_order_take_their_q_heads_along():
    x, order = inputs(ONE), np.array([2, 0, 1])
    other = variations.with_heads_in_order(x, order)
    assert same_elsewhere(x, other)
    assert np.array_equal(variations.q_heads(x, order), [4, 5, 0, 1, 2, 3])
    assert np.array_equal(other.q[:, :2], x.q[:, 4:6])
    for name in ("k", "v"):
        assert np.array_equal(other.tokens[name][:, 0], x.tokens[name][:, 2])
        assert not np.array_equal(other.tokens[name], x.tokens[name])


def test_factors_change_what_they_name():
    x = inputs(ONE)
    v = variations.with_v_times(x, -2.0)
    assert np.array_equal(v.tokens["v"], -2 * x.tokens["v"])
    assert np.array_equal(v.tokens["k"], x.tokens["k"])
    q = variations.with_factor_in_q(x, 2.0)
    assert np.array_equal(q.q, 2 * x.q)
    assert np.array_equal(2 * q.tokens["k"], x.tokens["k"])
    assert np.array_equal(q.tokens["v"], x.tokens["v"])


def test_an_input_is_left_as_it_was():
    """Inputs are cached: what a variation wrote into one would be in every later law."""
    x = inputs(ONE)
    before = {name: array.copy() for name, array in x.arrays().items()}
    variations.with_other_neighbours(x, 0, "nan")
    variations.with_v_times(x, 4.0)
    variations.with_factor_in_q(x, 2.0)
    variations.with_heads_in_order(x, np.array([1, 0, 2]))
    assert all(np.array_equal(before[name], array) for name, array in x.arrays().items())


REGIONS = ("tails", "free", "padding", "null")
ROWS = {
    "nhd": {},
    "packed": {"head_dim": 8},
    "tokens_last": {"page_size": 128, "head_dim": 20},
    "token_slots": {"page_size": 1},
    "bshd": {"page_size": 6, "spare_pages": 0},
}


def poisoned(layout, poison):
    """A Case, and where its cache holds NaN."""
    x = inputs(replace(ONE, layout=layout, poison=poison, table_padding="null", **{"spare_pages": 2} | ROWS[layout]))
    return x, {name: np.isnan(field) for name, field in paged.filled(x, "nan").items()}


@pytest.mark.parametrize("layout", ROWS)
def test_regions_of_poison_are_apart_and_together_are_all_of_it(layout):
    x, whole = poisoned(layout, "all")
    of = [poisoned(layout, region)[1] for region in REGIONS]
    for name in whole:
        assert whole[name].any()
        assert np.array_equal(np.sum([region[name] for region in of], axis=0), whole[name]), name
    for rows, name in zip(paged.gathered(x, paged.filled(x, "nan")), ("k", "v"), strict=True):
        assert np.array_equal(rows, x.tokens[name])


@pytest.mark.parametrize("layout", ROWS)
def test_each_region_lies_where_it_says(layout):
    x, padding = poisoned(layout, "padding")
    for name, where in padding.items():
        assert np.array_equal(where, x.row.padding(name, x.sizes, x.case.dtype))
    assert any(where.any() for where in padding.values()) == (layout in ("packed", "tokens_last"))
    for region in ("tails", "free", "null"):
        x, where = poisoned(layout, region)
        slots = np.arange(x.sizes["page"] * x.case.page_size)
        for part in x.row.parts:
            read = paged.token_coordinates(x, part, slots)
            nan = np.isnan(memory.load(x.row, paged.filled(x, "nan"), part, read, x.sizes, x.case.dtype)).all((1, 2))
            pages = set((slots[nan] // x.case.page_size).tolist())
            live = x.slots[part.side]
            owned = set((live // x.case.page_size).tolist())
            assert pages <= owned if region == "tails" else not pages & owned
            named = x.tables[part.side][np.arange(x.tables[part.side].shape[1]) >= np.array(x.pages_of)[:, None]]
            assert pages == set(named.tolist()) if region == "null" else not pages & set(named.tolist())
            assert not set(live.tolist()) & set(slots[nan].tolist())
            # a page of one slot has no tail, and a table of whole sequences no padding
            assert nan.any() or (layout, region) in (("token_slots", "tails"), ("bshd", "null"))


def test_neighbours_of_a_kernel_that_takes_zeros_alone_hold_what_another_seed_gives():
    x, fresh = inputs(ONE), inputs(replace(ONE, seed=ONE.seed + 1))
    other = variations.with_other_neighbours(x, 0, "zero")
    assert same_elsewhere(x, other)
    kept = x.owners[0] == 0
    for name in ("k", "v"):
        assert np.array_equal(other.tokens[name][kept], x.tokens[name][kept])
        assert np.array_equal(other.tokens[name][~kept], fresh.tokens[name][~kept])
        assert not np.array_equal(other.tokens[name], x.tokens[name])
    assert np.array_equal(other.q, np.concatenate([x.q[:1], fresh.q[1:]]))
