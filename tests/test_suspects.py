"""A wrong row of attention names the one key that accounts for it, or none."""

from dataclasses import replace

import numpy as np
import pytest

from kvconform.oracles import decode, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.oracles.suspects import suspect
from kvconform.specs.case import Case
from kvconform.specs.conventions import declared
from kvconform.specs.inputs import inputs
from kvconform.specs.profile import Profile

CASE = Case(
    op="paged_decode",
    layout="nhd",
    dtype="float32",
    seed=5,
    family="fine",
    dead="finite",
    page_size=4,
    num_kv_heads=2,
    group=2,
    head_dim=8,
    kv_lens=(11, 6),
    spare_pages=1,
)


@pytest.fixture
def seen():
    """What a kernel gives that reads the keys at some positions of sequence 1, and the suspect of it."""
    x = inputs(CASE)
    cache = paged.filled(x, CASE.dead)
    right = DecodeReading.right(x, declared({}))
    want = decode.expected(x, cache, Profile(), right)["out"]

    def name(change):
        reading = change(right)
        got = decode.expected(x, cache, Profile(), reading)["out"].want.astype(np.float32)
        return suspect(x, cache, right, want, got)

    return name


def test_a_correct_result_has_no_suspect(seen):
    assert seen(lambda right: right) is None


def test_a_key_that_is_left_out_is_named(seen):
    page, slot = inputs(CASE).tables[0][1, 1], 1
    shorter = seen(lambda right: replace(right, lens=np.array([11, 5])))
    assert shorter == f"key 5 of seq 1 (page {page}, slot {slot}) is left out"


def test_a_dead_slot_that_is_read_is_named(seen):
    page = inputs(CASE).tables[0][1, 1]
    longer = seen(lambda right: replace(right, lens=np.array([11, 7])))
    assert longer == f"page {page}, slot 2 (past the newest token) is read as one more key of seq 1"


def test_what_no_single_key_accounts_for_has_no_suspect(seen):
    assert seen(lambda right: replace(right, sm_scale=2 * right.sm_scale)) is None
    assert seen(lambda right: replace(right, lens=np.array([11, 3]))) is None


def test_a_row_without_keys_is_looked_at_in_silence():
    """Nothing and a slot that holds NaN have no weight together: no division by it, which would warn."""
    x = inputs(replace(CASE, kv_lens=(11, 0), dead="nan"))
    cache = paged.filled(x, "nan")
    right = DecodeReading.right(x, declared({}))
    want = decode.expected(x, cache, Profile(), right)["out"]
    got = want.want.astype(np.float32)
    got[1] = 1.0
    assert suspect(x, cache, right, want, got) is None


@pytest.mark.parametrize(("family", "overflows"), [("steep", True), ("fine", False)])
def test_of_rows_that_are_no_numbers_it_is_told_whether_exp_of_a_score_overflows(family, overflows):
    x = inputs(replace(CASE, family=family, sm_scale=1.0))
    cache = paged.filled(x, CASE.dead)
    right = DecodeReading.right(x, declared({}))
    want = decode.expected(x, cache, Profile(), right)["out"]
    got = np.full_like(want.want, np.nan, dtype=np.float32)
    said = suspect(x, cache, right, want, got)
    assert (said or "").startswith("scores meet exp as they are: one of ") == overflows
    got[..., 0] = want.want[..., 0]
    assert "exp" not in (suspect(x, cache, right, want, got) or "")  # what is divided by infinity is no number anywhere
    got = np.zeros_like(got)
    assert "exp" not in (suspect(x, cache, right, want, got) or "")  # rows of numbers have overflown nowhere


def test_nan_beside_a_right_row_of_as_large_a_score_is_no_overflow_of_exp():
    x = inputs(replace(CASE, family="steep", sm_scale=1.0))
    cache = paged.filled(x, CASE.dead)
    right = DecodeReading.right(x, declared({}))
    want = decode.expected(x, cache, Profile(), right)["out"]
    got = want.want.astype(np.float32)
    got[0] = np.nan
    assert "meet exp" in suspect(x, cache, right, want, got)
    got[0, 1:] = want.want[0, 1:]
    assert suspect(x, cache, right, want, got) is None
