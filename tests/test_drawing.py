"""Cases are drawn from a seed alone, and what violates is made smaller."""

from itertools import islice

import hypothesis.core
import pytest
from hypothesis import strategies as st

from kvconform.harness.drawing import judged
from kvconform.impls import numpy_ref
from kvconform.oracles.verdict import Violation
from kvconform.specs.cells import cells
from kvconform.specs.conventions import declared
from kvconform.specs.strategies import cases, simplest

CELL = cells("paged_decode", numpy_ref.OFFERS["paged_decode"], declared(numpy_ref.CONVENTIONS))[0]


def drawn(by, count=20):
    seen = []
    assert all(islice(judged(cases(CELL), lambda case: seen.append(case) is None, by), count))
    return seen


def smallest(violates, by=0):
    """The case of the violation that ends the drawing, and how many were judged before the first one violated."""
    seen = []

    def judge(case):
        seen.append(case)
        if violates(case):
            raise Violation("wrong")
        return True

    with pytest.raises(Violation):
        list(islice(judged(cases(CELL), judge, by), 1000))
    return seen[-1], [violates(case) for case in seen].index(True)


def test_cases_depend_on_the_seed_alone():
    first = drawn(5)
    drawn(6)
    assert drawn(5) == first
    assert drawn(6) != first
    assert drawn(5, 10) == first[:10]


def test_cases_are_hardly_drawn_twice():
    assert len(set(drawn(1, 300))) > 295


def test_what_judging_says_is_handed_on():
    says = st.sampled_from([True, False])
    assert set(islice(judged(says, lambda case: case, 0), 50)) == {True, False}


@pytest.mark.parametrize("by", range(3))
def test_a_case_that_violates_is_made_smaller(by):
    case, _ = smallest(lambda case: sum(case.kv_lens) >= 3, by)
    assert (case.kv_lens, case.num_kv_heads, case.seed) in {((3,), 1, 0), ((1, 2), 1, 0), ((1, 1, 1), 1, 0)}


def test_a_case_of_many_choices_is_made_smaller_behind_one_of_few():
    """Hypothesis keeps a failure where it is shorter than those it has kept: each starts from nothing."""
    assert smallest(lambda case: True)[1] == 0
    case, _ = smallest(lambda case: len(case.kv_lens) >= 9)
    assert (len(case.kv_lens), case.seed, case.family) == (9, 0, simplest(CELL).family)


def test_where_hypothesis_is_told_a_seed_the_violation_stands_as_it_was_drawn(monkeypatch):
    """`pytest --hypothesis-seed` keeps it from its database."""
    monkeypatch.setattr(hypothesis.core, "global_force_seed", 1)
    case, before = smallest(lambda case: sum(case.kv_lens) >= 3)
    assert case == drawn(0, before + 1)[-1]


def test_what_is_no_violation_leaves_at_once():
    def judge(case):
        raise KeyError("other")

    with pytest.raises(KeyError, match="other"):
        next(judged(cases(CELL), judge, 0))
