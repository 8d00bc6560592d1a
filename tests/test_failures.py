"""A failure leads to the bug: planted in the README's adapter, one at a time, each is named by what is pasted."""

import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.oracles.paged import located
from kvconform.oracles.verdict import Interval, Violation, by_axes, require_near
from kvconform.specs.case import Case
from kvconform.specs.conventions import declared
from kvconform.specs.inputs import inputs
from kvconform.suites.calls import require_attention, require_both, require_selected
from kvconform.tests.planted import OTHER, PLANTED, failure, page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "failures.md"


@pytest.mark.parametrize("name", PLANTED)
def test_the_message_alone_leads_to_the_bug(name):
    assert PLANTED[name].names in failure(name)


@pytest.mark.parametrize("name", OTHER)
def test_the_failure_of_a_wrong_kernel_says_what_was_done_and_where(name):
    assert OTHER[name] in failure(name)


def test_the_page_of_failures_is_what_the_failures_say():
    def steady(text):
        """Without the last bits of a wrong number, and of a sum in another order, which are the machine's."""
        numbers = re.sub(r"got [^,]+, want [^,]+, \S+ apart$", "got #", text, flags=re.M)
        return re.sub(r"got [^,]+,", "got #,", numbers)

    assert steady(PAGE.read_text()) == steady(page()), "python tests/planted.py > docs/failures.md"


def test_of_two_results_that_are_too_far_apart_the_worst_element_is_told():
    bound = Interval(np.zeros(3), np.array([1.0, 1.0, 0.25]), "float32", by_axes("seq"))
    with pytest.raises(Violation, match=r"^out both ways: 2 of 3 elements .* worst at seq 2: 0 and 3, allowed 0.5"):
        require_near(np.zeros(3), np.array([1.0, 4.0, 3.0]), bound, bound, "out both ways")


@pytest.mark.parametrize(
    ("one", "two", "centre", "blamed"),
    [
        (0.0, 3.0, 0.0, "; the latter is outside its own bound"),
        (3.0, 0.0, 0.0, "; the former is outside its own bound"),
        (-3.0, 3.0, 0.0, "; each is outside its own bound"),
        (-np.inf, 3.0, -np.inf, "; the latter is outside its own bound"),
        (0.0, 8.0, 4.0, ""),  # of results that are to be different no one is to blame
    ],
)
def test_of_two_results_that_are_too_far_apart_it_is_told_which_is_wrong(one, two, centre, blamed):
    first = centre if np.isinf(centre) else 0.0
    bound, other = (Interval(np.array([at]), np.ones(1), "float32", by_axes("seq")) for at in (first, centre))
    with pytest.raises(Violation) as told:
        require_near(np.array([one]), np.array([two]), bound, other, "out both ways")
    assert re.sub(r".* allowed [^;]+", "", str(told.value)) == blamed


SUBJECT = SimpleNamespace(conventions=declared({}), saw_nothing=lambda: None)


def two_results(case, row):
    """Inputs, and results of one call and of another that differ in one query row."""
    x = inputs(case)
    got, want = (np.zeros((case.num_q_rows, case.num_q_heads, 1), np.float32) for _ in range(2))
    want[row, 0], want[row, -1] = 0.25, 1
    return x, {"out": got}, {"out": want}


@pytest.mark.parametrize(
    ("apart", "asked"), [(0.0, []), (0.5, ["first"]), (2.5, ["first", "second"]), (4.5, ["first", "second"])]
)
def test_a_bound_is_worked_out_where_bits_differ_and_the_second_where_the_first_does_not_reach(apart, asked):
    x = inputs(Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3,)))
    worked_out = []

    def bound(name, error):
        worked_out.append(name)
        return {"out": Interval(np.zeros((1, 1, 1)), np.full((1, 1, 1), error), "float32", by_axes("seq"))}

    got, want = ({"out": np.full((1, 1, 1), value, np.float32)} for value in (1.0, 1.0 + apart))
    bounds = partial(bound, "first", 1.0), partial(bound, "second", 3.0)
    with (
        pytest.raises(Violation, match=r", allowed 4; the latter is outside its own bound$")
        if apart > 4
        else nullcontext()
    ):
        require_both(SUBJECT, x, got, want, "of one call against another", bounds)
    assert worked_out == asked


def test_nan_in_both_of_two_results_is_no_difference_and_in_one_is_the_worst():
    bound = Interval(np.zeros(3), np.ones(3), "float32", by_axes("seq"))
    require_near(np.array([np.nan, 0, 0]), np.array([np.nan, 1, 0]), bound, bound, "out both ways")
    with pytest.raises(
        Violation, match=r"1 of 3 elements .* worst at seq 2: 0 and nan; the latter is outside its own bound$"
    ):
        require_near(np.array([np.nan, 0, 0]), np.array([np.nan, 1, np.nan]), bound, bound, "out both ways")


@pytest.mark.parametrize(
    ("one", "two", "near"),
    [
        (np.inf, np.inf, True),
        (-np.inf, -np.inf, True),
        (np.inf, -np.inf, False),
        (np.inf, 0, False),
        (3e38, -np.inf, False),
        (np.inf, float(np.finfo(np.float32).max), True),
        (np.inf, 3e38, False),
    ],
)
def test_an_infinity_is_as_far_from_a_number_as_the_end_of_its_format(one, two, near):
    bound = Interval(np.zeros(1), np.ones(1), "float32", by_axes("seq"))
    for pair in ((one, two), (two, one)):
        arrays = [np.array([value], np.float32) for value in pair]
        if near:
            require_near(*arrays, bound, bound, "out both ways")
        else:
            with pytest.raises(Violation, match="1 of 1 elements farther apart than both bounds allow"):
                require_near(*arrays, bound, bound, "out both ways")


def test_a_difference_that_is_infinite_is_told_without_a_figure():
    x, got, want = two_results(Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3, 3)), 0)
    got["out"][1] = np.inf
    with pytest.raises(Violation, match=r"got inf, want 0\.0$"):
        require_attention(SUBJECT, x, got, want, "of one call against another")


@pytest.mark.parametrize(
    ("q_lens", "where"),
    [
        ((), "seq 1, position 2 {page 1, slot 2}"),
        ((2, 1), "seq 0, position 2 {page 0, slot 2}"),
        ((1, 2), "seq 1, position 1 {page 1, slot 1}"),
    ],
)
@pytest.mark.parametrize("layout", ["nhd", "bshd"])
def test_an_element_is_named_by_the_place_of_its_query_token(layout, q_lens, where):
    shape = {"kv_lens": (3, 3), "q_lens": q_lens, "group": 2, "page_size": 4, "seed": 1}
    case = Case(op="paged_decode", layout=layout, dtype="float32", **shape)
    where = re.sub(r" {.*}", "", where) if case.row.contiguous else where.replace("{", "(").replace("}", ")")
    with pytest.raises(Violation) as violation:
        require_attention(SUBJECT, *two_results(case, 1), "of one call against another")
    said = f"2 of {2 * case.num_q_rows} elements differ, farthest at {where}, q_head 1, dim 0: got 0.0, want 1.0"
    assert f"{said}, 1 apart" in str(violation.value)


def test_a_query_token_without_a_key_has_no_position():
    case = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3, 0))
    with pytest.raises(Violation, match=r"farthest at seq 1, q_head 0, dim 0: got 0\.0, want 1\.0, 1 apart$"):
        require_attention(SUBJECT, *two_results(case, 1), "of one call against another")


def test_rows_of_a_call_are_named_by_their_place_in_the_whole_one():
    case = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3, 3, 3), group=2)
    x, got, whole = two_results(case, 2)
    for at, where in ((np.array([2, 0]), "seq 2, .*q_head 1"), ((slice(None), np.array([1, 0])), "seq 2, .*q_head 1")):
        of_some = {"out": np.zeros_like(got["out"][at])}
        with pytest.raises(Violation, match=f"farthest at {where}, dim 0: got 0.0, want 1.0, 1 apart"):
            require_selected(SUBJECT, x, of_some, whole, at, "of some rows against all", None)


def test_nan_is_farther_than_any_number_and_no_figure_is_told_of_it():
    case = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3, 3))
    x, got, want = two_results(case, 0)
    got["out"][1] = np.nan
    with pytest.raises(Violation, match=r"farthest at seq 1, position 2 .*, q_head 0, dim 0: got nan, want 0\.0$"):
        require_attention(SUBJECT, x, got, want, "of one call against another")


@pytest.mark.parametrize(
    ("page", "slot", "whose"), [(0, 2, "position 2 of seq 0"), (0, 3, "past the newest token"), (1, 0, "free")]
)
def test_a_byte_of_a_cache_is_named_by_whose_slot_it_lies_in(page, slot, whose):
    x = inputs(Case(op="append", layout="nhd", dtype="float32", page_size=4, kv_lens=(3,), spare_pages=1))
    page = [int(x.tables[0][0, 0]), 1 - int(x.tables[0][0, 0])][page]
    assert located(x, "k", (page, slot, 0, 0)) == f"k: page {page}, slot {slot}, head 0, dim 0 ({whose})"
