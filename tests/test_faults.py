"""Faults of attention's features: each is seen, the kernel they are made of is right, what is equivalent is proved."""

import ast
import json
from collections import Counter
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner

from kvconform.faults.every import FAULTS
from kvconform.faults.fault import Fault
from kvconform.faults.kernel import Steps
from kvconform.faults.of_caches import CACHE_FAULTS
from kvconform.faults.of_features import FEATURE_FAULTS
from kvconform.faults.of_tables import TABLE_FAULTS
from kvconform.harness import power_command, power_page
from kvconform.harness.adapters import ROOT, find
from kvconform.harness.booking import CONFORMS, VIOLATES, paste
from kvconform.harness.cli import commands
from kvconform.harness.faulty import FaultySubject
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import Options
from kvconform.harness.power import EFFORT, OP, Tried, made, to_kill, tried
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.oracles import paged
from kvconform.specs.case import Case
from kvconform.specs.features import FEATURES
from kvconform.specs.inputs import inputs
from kvconform.suites.calls import attend

LAWS = all_laws()
BOUND = {"decode_is_within_the_bound": LAWS["decode_is_within_the_bound"]}
LAYOUT = ("nhd",)
ELSEWHERE = ("scale_of_none_is_of_head_dim",)
"""Faults of what the reference declares otherwise."""


@pytest.fixture(scope="module")
def reference():
    found = find("numpy_ref")
    return Subject(found.load(), found.name, str(found.path))


def layouts(fault):
    """Where a fault is tried: in the layout that it needs, or the simplest one."""
    return (fault.needs["layout"],) if "layout" in fault.needs else LAYOUT


NEEDED = sorted({layouts(fault) for fault in FAULTS.values()})


@pytest.mark.parametrize(("seed", "layout"), [*[(seed, LAYOUT) for seed in (1, 2)], *[(0, one) for one in NEEDED]])
def test_the_kernel_that_faults_are_made_of_is_right(reference, seed, layout):
    results = list(tried(reference, None, LAWS if layout == LAYOUT else BOUND, seed, layout))
    assert {one.law: one.cases for one in results} == {one.law: 0 for one in results}
    assert len(results) >= (15 if layout == LAYOUT else 1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["has_every_other_convention", "query_tokens_stand_at_the_first_keys"])
def test_the_kernel_that_faults_are_made_of_is_right_by_other_conventions(name, seed):
    found = find(str(ROOT / "tests" / "right" / f"{name}.py"))
    subject = Subject(found.load(), found.name, str(found.path))
    for law in [BOUND, *([] if seed else [LAWS])]:
        results = list(tried(subject, None, law, seed, LAYOUT))
        assert {one.law: one.cases for one in results} == {one.law: 0 for one in results}
        assert results


@pytest.mark.parametrize("name", [name for name, fault in FEATURE_FAULTS.items() if "q_lens" in fault.needs])
def test_faults_of_query_tokens_can_do_without_some(reference, name):
    """They compute something wrong, and do not raise, where a sequence of the batch has none."""
    sizes = {"kv_lens": (5, 4, 0, 7), "q_lens": (2, 0, 0, 3), "tree_mask": "drawn", "num_splits": 2, "window": 3}
    case = Case(op=OP, layout="nhd", dtype="float32", group=2, soft_cap=2.0, sinks="drawn", **sizes)
    subject = FaultySubject(reference, FAULTS[name])
    for one in (case, replace(case, tree_mask="none")):
        assert attend(subject, one, paged.filled(inputs(one), "zero"))["out"].shape == (5, 2, 1)


@pytest.mark.parametrize(
    "name", [name for name, fault in FAULTS.items() if not fault.equivalent and name not in ELSEWHERE]
)
def test_a_fault_is_seen_by_the_law_of_the_bound(reference, name):
    assert made(FAULTS[name], reference) == ""
    (one,) = tried(reference, FAULTS[name], BOUND, 0, layouts(FAULTS[name]))
    assert one.cases, one


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.equivalent])
def test_what_is_called_equivalent_is_not_seen(reference, name):
    found = tried(reference, FAULTS[name], LAWS, 0, layouts(FAULTS[name]))
    assert [one for one in found if one.cases] == []


def test_each_feature_has_ten_faults_and_all_have_sixty():
    count = Counter(axis for fault in FEATURE_FAULTS.values() for axis in fault.needs)
    assert {name: count[name] >= 10 for name in FEATURES} == dict.fromkeys(FEATURES, True)
    assert len(FEATURE_FAULTS) >= 60


def test_what_k_and_v_are_made_of_has_forty_faults():
    assert len(CACHE_FAULTS) >= 40
    assert len(FAULTS) == len(FEATURE_FAULTS) + len(CACHE_FAULTS) + len(TABLE_FAULTS)  # no two have one name


def test_the_scale_of_none_is_a_fault_by_what_it_is_declared_to_be(reference):
    name = "scale_of_none_is_of_head_dim"
    assert made(FAULTS[name], reference) == "its conventions make it right"
    other = FaultySubject(reference, None)
    other.conventions = {**other.conventions, "sm_scale_of_none": "one"}
    assert made(FAULTS[name], other) == ""
    assert made(FAULTS["scale_of_none_is_one"], other) == "its conventions make it right"
    searcher = Searcher(_with_fault(other, FAULTS[name]), Options(EFFORT, ops=(OP,), layouts=LAYOUT, laws=tuple(BOUND)))
    searcher.begin(1)
    cells = searcher.run(*BOUND.values())
    assert {(cell.outcome, cell.meant) for cell in cells} == {
        (VIOLATES, 'CONVENTIONS["sm_scale_of_none"] = "head_dim"')
    }


def _with_fault(subject, fault):
    faulty = FaultySubject(subject, fault)
    faulty.conventions = subject.conventions
    return faulty


FOUND_WRONG = {
    "full_last_page_has_no_token": "full_last_page_is_dropped",
    "empty_sequence_has_its_last_page_len": "empty_sequences_have_a_last_page",
    "empty_sequence_takes_the_page_of_the_next": "empty_sequences_have_a_last_page",
    "indptr_is_read_a_row_too_far": "indptr_of_the_next_sequence",
    "indices_are_read_as_rows": "indices_are_rows_of_a_table",
    "surplus_belongs_to_the_last_sequence": "last_sequence_has_the_surplus",
    "slots_are_taken_page_by_page": "slots_are_strided_by_the_page",
    "last_page_len_is_one_less": "last_token_is_dropped",
    "last_page_len_is_one_more": "one_token_too_many",
}
"""Fault -> the mistake that it looks like."""


@pytest.mark.parametrize("name", FOUND_WRONG)
def test_a_fault_of_a_page_table_is_called_by_its_name(reference, name):
    faulty = FaultySubject(reference, FAULTS[name])
    searcher = Searcher(faulty, Options(EFFORT, ops=(OP,), layouts=LAYOUT, dtypes=("float32",), laws=tuple(BOUND)))
    searcher.begin(1)
    (cell,) = searcher.run(*BOUND.values())
    assert (cell.outcome, cell.looks_like) == (VIOLATES, FOUND_WRONG[name])


def test_every_form_and_every_eviction_has_faults():
    needed = Counter(f"{axis} {fault.needs.get(axis)}" for fault in TABLE_FAULTS.values() for axis in fault.needs)
    assert needed["table_form csr"] >= 8
    assert needed["table_form token_slots"] >= 2
    assert {"evicted_pages null", "evicted_pages minus_one"} <= set(needed)


def test_a_fault_is_left_out_where_there_is_no_room_for_it(reference):
    assert made(Fault(name="x", steps=Steps(), needs={"window": -1}), reference) == "window -1 is not offered"
    not_at_all = Fault(name="x", steps=Steps(), claims=lambda conventions: False)
    assert made(not_at_all, reference) == "its conventions make it right"


def test_rounding_of_sinks_is_no_fault_where_they_are_given_rounded(reference):
    fault = FEATURE_FAULTS["sinks_are_rounded_to_bfloat16"]
    assert made(fault, reference) == ""
    for choice in ("q", "bfloat16"):
        other = FaultySubject(reference, None)
        other.conventions = {**other.conventions, "sinks_dtype": choice}
        assert made(fault, other) == "its conventions make it right"


def test_a_law_that_passes_with_one_seed_has_not_seen_a_fault():
    seen, missed = (Tried("f", "l", "c", 0, cases, 1.0) for cases in (3, 0))
    assert to_kill([seen, seen]) == (3, 1.0)
    assert to_kill([seen, missed]) is None
    assert to_kill([]) is None


def run(*arguments):
    command = ["power", "--layout", "nhd", "--seeds", "1", *arguments]
    return CliRunner().invoke(commands, command, standalone_mode=False)


def test_the_command_prints_what_is_seen_and_writes_it(tmp_path):
    law = ("--law", "decode_is_within_the_bound")
    ran = run("--fault", "sinks_are_ignored", *law, "--json", str(tmp_path / "power.json"))
    assert ran.return_value == 0, ran.output
    (row,) = json.loads((tmp_path / "power.json").read_text())["faults"]
    assert row["fault"] == "sinks_are_ignored"
    assert row["tried"][0]["cases"] > 0


def test_the_page_is_made_of_what_the_command_wrote(tmp_path):
    """Of parts of the whole, as if they were one; a law that misses a seed, and what is equivalent, is told as such."""
    for number, fault in enumerate(("sinks_are_ignored", "window_is_one_wider")):
        law = ("--law", "decode_is_within_the_bound", "--law", "decode_repeats_bit_for_bit")
        assert run("--fault", fault, *law, "--json", str(tmp_path / f"{number}.json")).return_value == 0
    parts = [part for number in range(2) for part in ("--page", str(tmp_path / f"{number}.json"))]
    page = CliRunner().invoke(commands, ["power", *parts]).output
    assert (
        f"--seeds 1`\n\n2 of 2 faults are seen with each of 1 seed; {len(FAULTS) - 2} others were not tried.\n" in page
    )
    assert "| 1 | `decode_is_within_the_bound` | 2 | 2 |\n| 2 | `decode_repeats_bit_for_bit` | 0 | 0 |" in page
    assert [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")] == [
        "| `sinks_are_ignored`",
        "| `window_is_one_wider`",
    ]


def report_of(*tried, **row):
    some = [asdict(Tried("f", *one, 0.5)) for one in tried]
    fault = {"fault": "f", "source": "", "equivalent": "", "tried": some} | row
    return {"impl": "numpy_ref", "seeds": 2, "faults": [fault], "left_out": {"g": "window 3 is not offered"}}


def test_the_page_says_what_is_not_seen_what_is_equivalent_and_what_is_left_out():
    half = report_of(("a", "nhd/float32", 0, 4), ("a", "hnd/float32", 1, 0), ("b", "nhd/float32", 0, 0))
    page = power_page.markdown([half], ["b", "a"], ("f", "g"))
    assert "0 of 1 faults are seen with each of 2 seeds.\n" in page
    row = "| `f` | . | (1/2) | - |\n"
    assert f"{row}\n- not seen with each seed: `f`\n- left out: `g`: window 3 is not offered\n" in page
    proved = power_page.markdown([report_of(("a", "nhd/float32", 0, 0), equivalent="0 + 0 is 0")], ["a"], "fgh")
    assert "0 of 0 faults are seen with each of 2 seeds; 1 others were not tried." in proved
    assert "not counted, nothing can tell it from a right kernel: `f`: 0 + 0 is 0" in proved


def test_a_fault_that_no_law_sees_is_red(monkeypatch):
    monkeypatch.setattr(power_command, "FAULTS", {"nothing": Fault(name="nothing", steps=Steps())})
    assert run("--law", "decode_repeats_bit_for_bit").return_value == 1


DECLARED = {
    "window_is_one_wider": 'CONVENTIONS["window_counts"] = "left"',
    "soft_cap_bends_unscaled_scores": 'CONVENTIONS["soft_cap_order"] = "unscaled"',
    "sinks_are_not_in_lse": 'CONVENTIONS["sinks_in_lse"] = False',
    "scale_of_none_is_one": 'CONVENTIONS["sm_scale_of_none"] = "one"',
    "distance_is_from_the_first_key": 'CONVENTIONS["alibi_from"] = "first_key"',
    "distance_is_from_the_newest_key": 'CONVENTIONS["alibi_from"] = "last_key"',
    "distance_is_from_the_oldest_query_token": 'CONVENTIONS["alibi_from"] = "first_query"',
    "causality_is_top_left_of_several_query_tokens": 'CONVENTIONS["causal"] = "top_left"',
    "sinks_are_counted_where_there_are_keys": 'CONVENTIONS["empty_with_sink"] = "lse_of_empty"',
    "newer_tokens_are_seen": 'CONVENTIONS["causal"] = "none"',
}
"""Fault -> what to declare if it is none."""

UNTOLD = ('CONVENTIONS["alibi_from"] = "query_index"', 'CONVENTIONS["sinks_dtype"] = "bfloat16"')
"""What else may be declared: the one is another choice where there is one query token, the other is what is given."""


@pytest.mark.parametrize("name", DECLARED)
def test_a_fault_that_is_somebody_s_convention_says_what_to_declare(reference, name):
    faulty = FaultySubject(reference, FAULTS[name])
    options = Options(EFFORT, ops=(OP,), layouts=LAYOUT, dtypes=("float32",), laws=tuple(BOUND))
    searcher = Searcher(faulty, options)
    searcher.begin(1)
    (cell,) = searcher.run(*BOUND.values())
    assert cell.meant == DECLARED[name]
    assert "raised" not in (cell.diagnosis or "")  # a diagnosis that breaks is a sentence in the cell, and a defect
    assert f"looks like  {cell.looks_like}; if that is meant, declare {DECLARED[name]}" in paste(cell)


@pytest.mark.parametrize("declared", [*DECLARED.values(), *UNTOLD])
def test_what_is_declared_so_is_right(reference, declared):
    convention, _, choice = declared.removeprefix('CONVENTIONS["').partition('"] = ')
    faulty = FaultySubject(reference, None)
    faulty.conventions = {**faulty.conventions, convention: ast.literal_eval(choice)}
    searcher = Searcher(faulty, Options(EFFORT, ops=(OP,), layouts=LAYOUT, dtypes=("float32",), laws=tuple(BOUND)))
    searcher.begin(1)
    assert {cell.outcome for cell in searcher.run(*BOUND.values())} == {CONFORMS}
