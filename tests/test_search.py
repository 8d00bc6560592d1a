"""What is planned: every cell of every law is tried or shown as not offered, none is dropped in silence."""

from types import SimpleNamespace

from kvconform.harness.booking import NOT_OFFERED
from kvconform.harness.cli import all_laws
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.plan import Options, left_out, planned
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref


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
