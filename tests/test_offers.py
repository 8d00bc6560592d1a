"""Everybody says what they offer and why not the rest, in words that mean something, and the pages say the same."""

import re
import tomllib
from pathlib import Path

import pytest

from kvconform.harness import offers_page
from kvconform.harness.adapters import AdapterError, builtin, check, find
from kvconform.harness.subject import Subject
from kvconform.specs.case import Case
from kvconform.specs.offers import flaw, holds, members
from kvconform.specs.operations import OPERATIONS

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("numpy_ref", "torch_ref", "triton_ref", "pallas_tpu", "cuda")


def subject(name):
    found = find(name)
    return Subject(found.load(), found.name, str(found.path), found.ref)


@pytest.mark.parametrize("name", builtin())
def test_what_is_not_offered_has_a_reason_and_what_is_offered_has_none(name):
    one = subject(name)
    gaps = offers_page.gaps(one)
    assert [gap for gap in gaps if not gap.reason] == []
    assert set(one.why_not) <= {word for gap in gaps for word in (gap.axis, gap.word)}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_of_ours_offers_every_operation_that_gives_arrays(name):
    objects = {op for op, row in OPERATIONS.items() if row.methods}
    assert set(subject(name).offers) - objects == set(OPERATIONS) - objects


@pytest.mark.parametrize("name", sorted(set(builtin()) - set(BACKENDS)))
def test_the_adapter_of_a_kernel_that_nobody_here_wrote_has_at_most_60_lines(name):
    assert len(find(name).path.read_text().splitlines()) <= 60


def test_the_page_of_offers_is_the_one_that_the_adapters_generate():
    assert (ROOT / "docs" / "offers.md").read_text() == offers_page.markdown(offers_page.subjects())


def test_the_page_of_findings_has_every_expectation_with_its_witness_and_no_other():
    page = (ROOT / "docs" / "findings.md").read_text()
    entries = tomllib.loads((ROOT / "impls" / "expectations.toml").read_text())["expect"]
    reasons = re.findall(r"^### (.*)$", page, re.M)
    assert reasons
    assert set(reasons) == {entry["reason"] for entry in entries}
    for entry in entries:
        assert f"witness `{Case.from_json(entry['witness'])}`" in page, entry["reason"]
        for law in entry["laws"]:
            assert f"breaks `{law}`" in page


def adapter(offers, **more):
    return type("adapter", (), {"OFFERS": offers, "gather": staticmethod(lambda: None), **more})


@pytest.mark.parametrize(
    ("offers", "more", "complaint"),
    [
        ({"gather": {"strides": {"outher"}}}, {}, "names strides 'outher'; did you mean 'outer'?"),
        ({"gather": {"index_dtype": {"int16"}}}, {}, "names index_dtype 'int16'"),
        ({"gather": {"page_size": set()}}, {}, "nothing lies in set()"),
        ({"gather": {"page_size": {"maxx": 4}}}, {}, "a table of min, max, step, multiple_of"),
        ({"gather": {}}, {"WHY_NOT": {"floatt16": "no"}}, "WHY_NOT names 'floatt16'; did you mean 'float16'?"),
        ({"gather": {}}, {"WHY_NOT": {"float16": ""}}, "WHY_NOT['float16'] must be a sentence"),
    ],
)
def test_an_offer_that_means_nothing_is_refused_in_a_sentence(offers, more, complaint):
    with pytest.raises(AdapterError, match=re.escape(complaint)):
        check(adapter(offers, **more), "a.py", "a")


@pytest.mark.parametrize(
    ("predicate", "inside", "outside"),
    [
        ({4, 8}, [4, 8], [5]),
        (range(8, 33, 8), [8, 32], [4, 12, 40]),
        (16, [16], [15]),
        ({"max": 8}, [-1, 8], [9]),
        ({"min": 8}, [8, 1000], [7]),
        ({"min": 8, "max": 24, "step": 8}, [8, 16, 24], [12, 32]),
        ({"min": 1, "step": 2}, [1, 3, 99], [0, 2]),
        ({"multiple_of": 8}, [0, 8, 800], [4, 12]),
        ({"multiple_of": 8, "min": 16}, [16, 24], [8, 20]),
    ],
)
def test_a_predicate_takes_in_what_it_says_and_nothing_else(predicate, inside, outside):
    assert not flaw(predicate)
    assert all(holds(predicate, value) for value in inside)
    assert not any(holds(predicate, value) for value in outside)
    assert members(predicate)
    assert all(holds(predicate, value) for value in members(predicate))


def test_a_table_takes_in_numbers_alone():
    assert not holds({"max": 8}, "four")
    assert not holds({"max": 8}, None)
