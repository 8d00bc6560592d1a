"""What is planned and counted: no cell is dropped in silence, and no case that shows nothing counts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.harness.adapters import find
from kvconform.harness.booking import CONFORMS, NOT_OFFERED, VIOLATES, paste
from kvconform.harness.cli import all_laws
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.plan import Options, left_out, planned
from kvconform.harness.search import MOST_IDLE, Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.specs.strategies import simplest
from kvconform.suites.law import Law

DECODE = "decode_is_within_the_bound"


def test_a_cell_that_lacks_a_second_operation_is_shown_as_not_offered():
    offers = {
        "paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}},
        "merge_states": {"dtype": {"float32"}},
    }
    adapter = SimpleNamespace(OFFERS=offers, CONVENTIONS=numpy_ref.CONVENTIONS)
    law, options = all_laws()["attention_over_parts_merges_to_the_whole"], Options(EFFORTS["quick"])
    subject = Subject(adapter, "some", "some.py")
    assert [cell.dtype for cell, _ in planned(subject, law, options)] == ["float32"]
    (row,) = left_out(subject, law, options)
    assert (row.dtype, row.outcome, row.message) == ("bfloat16", NOT_OFFERED, "needs merge_states there too")


def test_a_case_that_a_kernel_which_does_nothing_passes_is_no_evidence():
    subject = Subject(numpy_ref, "numpy_ref", "numpy_ref.py")
    law = Law("nothing_is_seen", "merge_kv", lambda subject, case: subject.saw_nothing())
    searcher = Searcher(subject, Options(EFFORTS["quick"]))
    searcher.begin(1)
    for cell in searcher.run(law):
        assert cell.outcome == NOT_OFFERED
        assert (cell.examples, cell.idle) == (0, cell.idle)
        assert cell.idle in (MOST_IDLE[False], 2 * MOST_IDLE[False])
        assert cell.message == f"says nothing there: a kernel that does nothing passes each of {cell.idle} cases"


def test_what_is_pinned_is_tried_where_nothing_that_is_drawn_is_evidence():
    subject = Subject(numpy_ref, "numpy_ref", "numpy_ref.py")

    def pinned_alone(subject, case):
        if case.seed != 1 << 20:  # beyond those that are drawn
            subject.saw_nothing()

    law = Law("pinned_is_seen", "merge_kv", pinned_alone, pinned=lambda cell: (replace(simplest(cell), seed=1 << 20),))
    searcher = Searcher(subject, Options(EFFORTS["quick"]))
    searcher.begin(1)
    for cell in searcher.run(law):
        assert (cell.outcome, cell.examples, cell.idle) == (CONFORMS, 1, MOST_IDLE[False])
        assert cell.message == f"1/{cell.planned}, since others that were drawn are no evidence"


def test_cases_that_are_no_evidence_are_drawn_again():
    subject = Subject(numpy_ref, "numpy_ref", "numpy_ref.py")
    seen = []

    def every_other(subject, case):
        seen.append(case)
        if len(seen) % 2:
            subject.saw_nothing()

    searcher = Searcher(subject, Options(EFFORTS["quick"]))
    searcher.begin(1)
    for cell in searcher.run(Law("half_is_seen", "merge_kv", every_other)):
        assert (cell.outcome, cell.examples) == (CONFORMS, cell.planned)
        assert cell.idle


@pytest.mark.parametrize("gives", [0, 1])
def test_a_case_whose_every_result_is_zero_is_no_evidence_whatever_the_law(gives):
    told = {"OFFERS": {"merge_kv": {"dtype": {"float32"}}}, "attest": numpy_ref.attest}
    result = {"merge_kv": lambda k, v: np.full((len(k), 2 * k.shape[1], k.shape[2]), gives, k.dtype)}
    subject = Subject(SimpleNamespace(**told, **result), "some", "some.py")

    def calls(subject, case):
        subject.call(case, "merge_kv", k=np.ones((2, 1, 1), np.float32), v=np.ones((2, 1, 1), np.float32))

    searcher = Searcher(subject, Options(EFFORTS["quick"]))
    searcher.begin(1)
    (cell,) = searcher.run(Law("anything_goes", "merge_kv", calls))
    assert cell.outcome == (CONFORMS if gives else NOT_OFFERED)
    assert bool(cell.examples) == bool(gives)


@pytest.mark.parametrize(
    ("name", "alone"),
    [("sm_scale_of_the_first_call", False), ("breaks_after_fifty_calls", False), ("first_row_for_all", True)],
)
def test_a_violation_that_takes_calls_before_it_says_that_its_case_alone_conforms(name, alone):
    found = find(str(Path(__file__).parent / "wrong" / f"{name}.py"))
    searcher = Searcher(Subject(found.load(), found.name, found.file, found.ref), Options(EFFORTS["quick"]))
    searcher.begin(1)
    red = [cell for cell in searcher.run(all_laws()[DECODE]) if cell.outcome == VIOLATES]
    assert red
    for cell in red:
        assert (cell.rerun is None) == alone
        said = f"but         alone it conforms: it takes calls before it, as in {cell.rerun}"
        assert (said in paste(cell)) == (not alone)
        assert alone or f" --law {DECODE} --layout {cell.layout} --dtype {cell.dtype} " in cell.rerun
