"""A violation's diagnosis is made once a cell, from calls that are no examples, and never costs a run anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from kvconform.harness import diagnoses
from kvconform.harness.adapters import find
from kvconform.harness.booking import EXPECTED, VIOLATES
from kvconform.harness.cli import all_laws
from kvconform.harness.diagnoses import unasked
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.expectations import Expectation
from kvconform.harness.plan import Options
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.specs.case import Case

WRONG = Path(__file__).resolve().parent / "wrong"
LAWS = ("decode_is_within_the_bound", "decode_ignores_dead_slots")
TOLD = "K and V are read as in nhd = bshd = cells, not hnd"


def searcher(name="hnd_is_read_as_nhd", **changes):
    found = find(str(WRONG / f"{name}.py"))
    effort = replace(EFFORTS["quick"], seconds=3600.0)
    one = Searcher(Subject(found.load(), found.name, found.file), Options(effort), **changes)
    one.begin(1)
    return one


def booked(one, laws=LAWS):
    return [cell for law in laws for cell in one.run(all_laws()[law])]


@pytest.fixture
def asked(monkeypatch):
    """The cells that were diagnosed, as they come."""
    cells, real = [], diagnoses.explain

    def explain(call, cell, until):
        cells.append((cell.op, cell.layout, cell.dtype))
        return real(call, cell, until)

    monkeypatch.setattr(diagnoses, "explain", explain)
    return cells


def test_laws_that_fail_in_one_cell_share_its_diagnosis(asked):
    cells = booked(searcher())
    assert [(cell.outcome, cell.diagnosis) for cell in cells] == [(VIOLATES, TOLD)] * 4
    assert asked == [("paged_decode", "hnd", "float32"), ("paged_decode", "hnd", "bfloat16")]


def test_a_law_of_two_operations_is_told_both(asked):
    (cell, _) = booked(searcher("pages_of_k_are_used_for_v"), ("what_was_appended_is_gathered",))
    assert [op for op, _, dtype in asked if dtype == "float32"] == ["append", "gather"]
    written, read = cell.diagnosis.split("; K ")
    assert "V is written as in trtllm_blocks, but on page" in written
    assert "V is read as in trtllm_blocks, but on page" in read


def test_probes_are_no_examples(monkeypatch):
    with_probes = booked(searcher())
    monkeypatch.setattr(diagnoses, "explain", lambda call, cell, until: "")
    without = booked(searcher())
    assert {cell.diagnosis for cell in without} == {None}
    for one, other in zip(with_probes, without, strict=True):
        same = ("examples", "message", "counterexample", "looks_like", "resolution")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]


def test_what_conforms_and_what_does_not_concern_places_is_not_asked(asked):
    assert booked(searcher("hnd_is_read_as_nhd"), ("decode_repeats_bit_for_bit",))[0].diagnosis is None
    assert booked(searcher("merged_parts_are_added"), ("merge_is_within_the_bound",))[0].outcome == VIOLATES
    assert asked == []


def test_an_expected_cell_is_not_asked_and_no_probe_lies_in_its_region(asked):
    witness = Case.from_json(booked(searcher(), LAWS[:1])[0].counterexample)
    asked.clear()
    one = searcher()
    one.expectations = (Expectation(one.subject.name, LAWS[:1], "known", witness),)
    assert {cell.outcome for cell in booked(one, LAWS[:1])} == {EXPECTED}
    assert asked == []
    assert [cell.diagnosis for cell in booked(one, LAWS[1:])] == [None, None]  # red, but every probe is in the region
    elsewhere = replace(one.expectations[0], when={"head_dim": {1}})
    two = searcher()
    two.expectations = (elsewhere,)
    assert {cell.diagnosis for cell in booked(two, LAWS[1:])} == {TOLD}


def test_the_time_of_all_diagnoses_is_bounded(asked):
    """No time is left: each is given up before its first call, and the violation stands."""
    one = searcher()
    one.diagnoses.seconds = 0.0
    cells = booked(one)
    assert {(cell.outcome, cell.diagnosis) for cell in cells} == {(VIOLATES, None)}
    assert len(asked) == 2


def test_an_operation_whose_probes_ended_a_process_is_not_asked_again(asked):
    assert {cell.diagnosis for cell in booked(searcher(closed=frozenset({unasked("paged_decode")})))} == {None}
    assert asked == []


def test_a_diagnosis_that_fails_says_so_and_costs_nothing_else(monkeypatch):
    def fails(call, cell, until):
        raise IndexError("index 7 is out of bounds")

    monkeypatch.setattr(diagnoses, "explain", fails)
    sentence = "cannot be told: the diagnosis of paged_decode raised IndexError: index 7 is out of bounds"
    assert [(cell.outcome, cell.diagnosis) for cell in booked(searcher())] == [(VIOLATES, sentence)] * 4
