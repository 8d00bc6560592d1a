"""A failure leads to the bug: planted in the README's adapter, one at a time, each is named by what is pasted."""

import re
from pathlib import Path

import numpy as np
import pytest

from kvconform.oracles.verdict import Interval, Violation, by_axes, require_near
from kvconform.specs.case import Case
from kvconform.suites.calls import require_attention
from kvconform.tests.planted import PLANTED, failure, page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "failures.md"


@pytest.mark.parametrize("name", PLANTED)
def test_the_message_alone_leads_to_the_bug(name, tmp_path):
    assert PLANTED[name].names in failure(name, tmp_path)


def test_the_page_of_failures_is_what_the_failures_say():
    def steady(text):
        return re.sub(r"got [^,]+,", "got #,", text)  # the last bits of a wrong number are the machine's

    assert steady(PAGE.read_text()) == steady(page()), "python tests/planted.py > docs/failures.md"


def test_of_two_results_that_are_too_far_apart_the_worst_element_is_told():
    bound = Interval(np.zeros(3), np.array([1.0, 1.0, 0.25]), "float32", by_axes("seq"))
    with pytest.raises(Violation, match=r"^out both ways: 2 of 3 elements .* worst at seq 2: 0 and 3, allowed 0.5"):
        require_near(np.zeros(3), np.array([1.0, 4.0, 3.0]), bound, bound, "out both ways")


@pytest.mark.parametrize(("q_lens", "where"), [((), "seq 1"), ((2, 1), "query row 1")])
def test_a_row_of_several_query_tokens_is_not_called_a_sequence(q_lens, where):
    case = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3, 3), q_lens=q_lens)
    got = {"out": np.zeros((3, 1, 1), np.float32)}
    want = {"out": np.array([0, 1, 0], np.float32).reshape(3, 1, 1)}
    with pytest.raises(Violation, match=f"first at {where}, q_head 0, dim 0: got 0.0, want 1.0"):
        require_attention(None, case, got, want, "of one call against another")
