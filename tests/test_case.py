"""A Case is complete: it prints, serialises, replays and shrinks without moving what it does not name."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from kvconform.impls import numpy_ref
from kvconform.specs import data
from kvconform.specs.case import Case, CaseError
from kvconform.specs.cells import cells
from kvconform.specs.conventions import declared
from kvconform.specs.dtypes import DTYPES, FORMATS
from kvconform.specs.inputs import digest, inputs
from kvconform.specs.operations import OPERATIONS, ROUNDED
from kvconform.specs.strategies import cases

ONE = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(5, 0, 3), page_size=2, num_kv_heads=2, head_dim=4)


def some_cell(op):
    return cells(op, numpy_ref.OFFERS[op], declared(numpy_ref.CONVENTIONS))[0]


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_case_survives_json_with_the_same_arrays(op):
    @settings(max_examples=20)
    @given(case=cases(some_cell(op)))
    def one(case):
        again = Case.from_json(json.loads(json.dumps(case.to_json() | {"digest": digest(case), "law": "any"})))
        assert again == case
        assert digest(again) == digest(case)

    one()


def test_a_case_prints_what_differs_from_the_defaults():
    assert str(ONE) == (
        "paged_decode(layout='nhd', dtype='float32', page_size=2, num_kv_heads=2, head_dim=4, kv_lens=(5, 0, 3))"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": 99}, "a case of schema 99; this kvconform reads schema 1"),
        ({"op": "decode"}, "a case of op 'decode'; known: merge_kv"),
        ({"layout": "nhdd"}, "a case of layout 'nhdd'; known: nhd"),
        ({"pages": 3}, "a case with unknown field 'pages'"),
    ],
)
def test_a_case_that_cannot_be_read_says_why(change, text):
    with pytest.raises(CaseError, match=text):
        Case.from_json(ONE.to_json() | change)


DRAWN = {
    "4c3a723319ca1e24": Case(
        op="paged_decode",
        layout="nhd",
        dtype="float32",
        seed=5,
        family="needle",
        dead="nan",
        page_size=4,
        num_kv_heads=2,
        group=2,
        head_dim=8,
        kv_lens=(11, 6),
        spare_pages=1,
    ),
    "0562e9281be5c2cd": Case(
        op="append",
        layout="packed",
        dtype="bfloat16",
        seed=7,
        family="bits",
        num_kv_heads=3,
        head_dim=5,
        kv_lens=(3, 0, 9),
        skip=2,
    ),
    "7da57941393b9649": Case(
        op="append_decode",
        layout="split_x",
        dtype="float16",
        seed=9,
        family="cancel",
        page_size=2,
        num_kv_heads=2,
        head_dim=16,
        kv_lens=(4, 5),
        q_lens=(2, 1),
    ),
    "5f5c295a9b01b403": Case(
        op="merge_states",
        layout="parts_first",
        dtype="float32",
        seed=4,
        family="steep",
        num_parts=3,
        num_seqs=2,
        group=2,
    ),
    "a4ba3769f8c8637c": Case(
        op="pq_decode_attention",
        layout="pq_columns",
        dtype="uint8",
        seed=11,
        family="fine",
        kv_lens=(9, 2),
        residual=3,
    ),
}
"""Digest, as x86_64 with numpy 2.4 had it on 2026-11-29 -> Case. Where one changes, older replay lines draw others:
say so in the commit that changes it."""


@pytest.mark.parametrize("said", DRAWN)
def test_a_case_has_the_bits_that_another_machine_saw(said):
    assert digest(DRAWN[said]) == said


def test_the_digest_sees_one_changed_element():
    other = replace(ONE, seed=1)
    assert digest(other) != digest(ONE)
    assert digest(replace(ONE, kv_lens=(5, 0, 2))) != digest(ONE)


def test_shrinking_one_size_leaves_every_other_value_as_it_was():
    big, small = inputs(ONE), inputs(replace(ONE, kv_lens=(4, 0, 3), num_kv_heads=1))
    seq, position = big.owners
    kept = ~((seq == 0) & (position == 4))
    assert np.array_equal(big.tokens["k"][kept][:, :1], small.tokens["k"])
    assert np.array_equal(big.q[:, :1], small.q)


def test_every_page_belongs_to_one_sequence_at_most_and_order_is_not_kept():
    shuffled = 0
    for seed in range(20):
        x = inputs(replace(ONE, kv_lens=(9, 4, 5), spare_pages=2, seed=seed))
        owned = [int(p) for row, n in zip(x.block_table, x.pages_of, strict=True) for p in row[:n]]
        assert len(set(owned)) == len(owned)
        assert set(owned) < set(range(x.sizes["page"]))
        shuffled += owned != sorted(owned)
    assert shuffled >= 18


def test_slot_mapping_names_page_and_slot_and_skips():
    x = inputs(replace(ONE, op="append", skip=3))
    seq, position = x.owners
    want = x.block_table[seq, position // 2] * 2 + position % 2
    want[::3] = -1
    assert np.array_equal(x.slot_mapping, want)
    assert x.slot_mapping.dtype == np.int32


def test_capacity_fixes_every_shape_while_lengths_vary():
    shapes = set()
    for lens in ((0, 0), (1, 8), (8, 3)):
        x = inputs(replace(ONE, op="append", capacity=4, kv_lens=lens))
        shapes.add((x.tokens["k"].shape, x.slot_mapping.shape, x.block_table.shape, x.sizes["page"]))
    assert len(shapes) == 1


@pytest.mark.parametrize("family", [name for name in data.ARITHMETIC_FAMILIES if name != "fine"])
@pytest.mark.parametrize("tensor", ["q", "k", "v", "outs", "lse"])
def test_short_arithmetic_families_are_exact_in_every_rounded_dtype(family, tensor):
    h = data.hashes(3, tensor, np.arange(4096))
    wide = data.ARITHMETIC_FAMILIES[family](tensor, h)
    assert len(np.unique(wide)) > 1 or (family == "flat" and tensor in ("q", "lse"))
    for dtype in ROUNDED:
        assert np.array_equal(data.values(dtype, family, tensor, h).astype(np.float64), wide), dtype


@pytest.mark.parametrize("dtype", ROUNDED)
def test_the_fine_family_uses_every_bit_of_a_significand(dtype):
    """Rounding K or V to the next narrower format changes most of its values; of the short families it changes none."""
    fine = data.values(dtype, "fine", "v", data.hashes(3, "v", np.arange(4096))).astype(np.float64)
    significand = np.frexp(fine)[0] * 2.0 ** FORMATS[dtype].bits
    assert np.array_equal(significand, np.round(significand))
    assert (significand % 2 == 1).mean() > 0.25, "the last bit is used"


@pytest.mark.parametrize("dtype", DTYPES)
def test_bit_patterns_are_all_there(dtype):
    width = 8 * DTYPES[dtype].itemsize
    if width > 16:
        values = data.bits(dtype, data.hashes(0, "k", np.arange(1 << 16)))
        assert len(np.unique(values.view(np.uint32))) > 60_000
    else:
        values = data.patterns(dtype, (1 << width,), 5)
        assert len(np.unique(values.view(f"uint{width}"))) == 1 << width


def test_a_partition_holds_the_same_keys_in_the_same_order():
    x = inputs(replace(ONE, kv_lens=(5, 0, 7)))
    empty = 0
    for seed in range(10):
        x = inputs(replace(ONE, kv_lens=(5, 0, 7), seed=seed))
        parts = x.in_parts(3)
        assert parts.kv_lens.reshape(3, 3).sum(1).tolist() == [5, 0, 7]
        assert np.array_equal(parts.tokens["k"], x.tokens["k"])
        assert np.array_equal(parts.q[::3], x.q)
        empty += bool((parts.kv_lens.reshape(3, 3)[[0, 2]] == 0).any())
    assert empty


def test_stray_slots_lie_where_they_say():
    base = replace(ONE, op="append", kv_lens=(5, 4))
    end = inputs(base).sizes["page"] * base.page_size
    seen = {}
    for kind in ("none", "below", "beyond", "twice"):
        slots = [inputs(replace(base, stray_slots=kind, seed=seed)).slot_mapping for seed in range(12)]
        seen[kind] = np.concatenate(slots)
    assert (seen["none"] >= 0).all()
    assert (seen["none"] < end).all()
    assert (seen["below"] < -1).sum() == 12 * 3
    assert not (seen["below"] == -1).any()
    assert {int(n) for n in seen["beyond"] if n >= end} == {end, end + base.page_size, 2 * end + 1}
    one = inputs(replace(base, stray_slots="twice")).slot_mapping
    assert (one[[1, 4, 7]] == one[0]).all()
    assert len(set(one.tolist())) == len(one) - 3


def test_sequences_share_whole_leading_pages_and_what_is_in_them():
    x = inputs(replace(ONE, op="gather", page_size=2, kv_lens=(5, 4, 1), shared_pages=2))
    assert x.num_shared == [2, 2, 0]
    assert x.block_table[0, :2].tolist() == x.block_table[1, :2].tolist()
    assert x.block_table[2, 0] not in x.block_table[:2]
    rows = x.tokens["k"]
    assert np.array_equal(rows[:4], rows[5:9])
    assert not np.array_equal(rows[4], rows[9])


def test_sequences_alternate_between_two_prefixes():
    case = replace(ONE, op="gather", page_size=2, kv_lens=(5, 4, 5, 7, 1), shared_pages=2, shared_by="alternate")
    x = inputs(case)
    assert x.num_shared == [2, 2, 2, 2, 0]
    table = x.block_table[:, :2].tolist()
    assert table[0] == table[2]
    assert table[1] == table[3]
    assert not {*table[0]} & {*table[1]}
    assert not {*table[0], *table[1]} & {x.block_table[4, 0]}
    rows = np.split(x.tokens["k"], np.cumsum(case.kv_lens)[:-1])
    assert np.array_equal(rows[0][:4], rows[2][:4])
    assert np.array_equal(rows[1][:4], rows[3][:4])
    assert not np.array_equal(rows[0][:4], rows[1][:4])
    assert not np.array_equal(rows[0][4:], rows[2][4:])


def test_pages_are_moved_apart_or_swapped():
    apart = inputs(replace(ONE, op="copy_pages", kv_lens=(9, 6), page_size=2)).page_mapping
    assert not set(apart[:, 0]) & set(apart[:, 1])
    assert len(set(apart[:, 1])) == len(apart) > len(set(apart[:, 0]))  # one source has two targets
    swap = inputs(replace(ONE, op="copy_pages", kv_lens=(9, 6), page_size=2, page_moves="swap")).page_mapping
    assert {(a, b) for a, b in swap.tolist()} == {(b, a) for a, b in swap.tolist()}


def test_tokens_of_one_group_have_one_scale():
    x = inputs(replace(ONE, op="append", layout="kivi", dtype="uint2", page_size=64, head_dim=32, kv_lens=(64, 40)))
    scale = x.tokens["k_scale"]
    assert scale.shape == (104, 2, 32)
    assert (scale[:32] == scale[:1]).all()
    assert not np.array_equal(scale[31], scale[32])
    assert x.tokens["v_scale"].shape == (104, 2, 1)


def test_k_and_v_have_pages_of_their_own_where_the_layout_says_so():
    x = inputs(replace(ONE, op="append", layout="trtllm_blocks", kv_lens=(3, 4)))
    assert x.block_table.shape[1] == 2
    assert x.slot_mapping.shape == (2, 7)
    assert not set(x.tables[0][0, :2]) & set(x.tables[1][0, :2])
