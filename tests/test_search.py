"""What is planned and counted: no cell is dropped in silence, and no case that shows nothing counts."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.harness import search
from kvconform.harness.adapters import find
from kvconform.harness.booking import CONFORMS, NOT_OFFERED, VIOLATES, paste
from kvconform.harness.cli import all_laws
from kvconform.harness.efforts import BATCHES, EFFORTS
from kvconform.harness.journal import Journal, read
from kvconform.harness.plan import Options, left_out, planned
from kvconform.harness.search import MOST_BARREN, Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.oracles.bound import OutsideDomain
from kvconform.oracles.verdict import Exact, Violation, explaining, require
from kvconform.specs import data
from kvconform.specs.case import Case
from kvconform.specs.cells import NUM_SEQS
from kvconform.specs.strategies import simplest
from kvconform.suites.law import Law
from kvconform.tests.families import adapter_named

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
        assert cell.idle in (MOST_BARREN[False], 2 * MOST_BARREN[False])
        assert cell.message == f"says nothing there: a kernel that does nothing passes each of {cell.idle} cases"


def test_pinned_cases_end_where_one_violates_and_no_further_one_can_say_more():
    """Nothing named explains the first: those behind it are calls of a kernel that is known to be wrong."""
    subject, judged = Subject(numpy_ref, "numpy_ref", "numpy_ref.py"), []

    def violates(subject, case):
        judged.append(case.seed)
        raise Violation("wrong")

    def several(cell):
        return tuple(replace(simplest(cell), seed=seed) for seed in (3, 5, 7))

    law = Law("all_are_wrong", "merge_kv", violates, pinned=several, drawn=False)
    searcher = Searcher(subject, Options(EFFORTS["default"], dtypes=("float32",)))
    searcher.begin(1)
    (cell,) = searcher.run(law)
    assert (cell.outcome, cell.counterexample["seed"]) == (VIOLATES, 3)
    assert not {5, 7} & set(judged)


def test_each_mistake_that_is_tried_is_written_to_the_journal(tmp_path):
    """Many mistakes of a large case take longer than a call may be silent, and the kernel is not what takes it."""
    subject = Subject(numpy_ref, "numpy_ref", "numpy_ref.py")
    explanations = {"one/0": lambda: False, "other/0": lambda: True}

    def violates(subject, case):
        raise Violation("wrong", explanations)

    law = Law("all_are_wrong", "merge_kv", violates, pinned=lambda cell: (simplest(cell),), drawn=False)
    options = Options(EFFORTS["default"], dtypes=("float32",))
    searcher = Searcher(subject, options, journal=Journal(str(tmp_path / "journal")))
    searcher.begin(1)
    searcher.run(law)
    lines, _ = read(tmp_path / "journal", 0)
    kinds = [line["kind"] for line in lines]
    first = kinds.index("named")
    assert kinds[first - 1] == "case"
    assert [line["mistake"] for line in lines[first : first + 2]] == list(explanations)


def test_what_is_pinned_is_tried_where_nothing_that_is_drawn_is_evidence():
    subject = Subject(numpy_ref, "numpy_ref", "numpy_ref.py")

    def pinned_alone(subject, case):
        if case.seed != 1 << 20:  # beyond those that are drawn
            subject.saw_nothing()

    law = Law("pinned_is_seen", "merge_kv", pinned_alone, pinned=lambda cell: (replace(simplest(cell), seed=1 << 20),))
    searcher = Searcher(subject, Options(EFFORTS["quick"]))
    searcher.begin(1)
    for cell in searcher.run(law):
        assert (cell.outcome, cell.examples, cell.idle) == (CONFORMS, 1, MOST_BARREN[False])
        assert cell.message == f"1/{cell.planned}, since others that were drawn cannot be judged or are no evidence"


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


TAKES_CALLS = "alone it conforms: it takes calls before it"
NOW_AND_THEN = "alone it conforms, and so it did when tried once more: it violates now and then"
ALONE = {"sm_scale_of_the_first_call": TAKES_CALLS, "breaks_after_fifty_calls": TAKES_CALLS, "first_row_for_all": None}


@pytest.mark.parametrize(("name", "said"), ALONE.items())
def test_a_violation_that_takes_calls_before_it_says_that_its_case_alone_conforms(name, said):
    red = violations(find(str(Path(__file__).parent / "wrong" / f"{name}.py")), DECODE)
    assert red
    for cell in red:
        assert cell.alone == said
        line = f"but         {said}, as in {cell.rerun}"
        assert (line in paste(cell)) == (said is not None)
        assert said is None or cell.rerun.endswith("--profile quick --seed 0")


def violations(found, law, effort=EFFORTS["quick"]):
    searcher = Searcher(Subject(found.load(), found.name, found.file, found.ref), Options(effort))
    searcher.begin(1)
    return [cell for cell in searcher.run(all_laws()[law]) if cell.outcome == VIOLATES]


COUNTS = """
import numpy as np

OFFERS = {"merge_kv": {"dtype": {"float32", "float16"}}}
CALLS = [0]


def merge_kv(k, v):
    CALLS[0] += 1
    right = np.stack([k, v], 2).reshape(len(k), 2 * k.shape[1], k.shape[2])
    return right + 1 if WRONG else right
"""


def test_an_adapter_that_refuses_a_second_import_is_said_to(tmp_path):
    once = "import sys\nif hasattr(sys, 'refuses_once'):\n    raise KeyError('taken')\nsys.refuses_once = True\n"
    (tmp_path / "refuses.py").write_text(once + COUNTS.replace("WRONG", "True"))
    try:
        red = violations(find(str(tmp_path / "refuses.py")), "merge_alternates_k_and_v")
    finally:
        del sys.refuses_once
    said = "whether it violates alone cannot be told: imported once more, the adapter raised KeyError: 'taken'"
    assert {cell.alone for cell in red} == {said}
    assert all(f"    but         {said}" in paste(cell).splitlines() for cell in red)


def test_where_time_is_up_it_is_said_that_a_case_was_not_tried_alone(tmp_path):
    (tmp_path / "counts.py").write_text(COUNTS.replace("WRONG", "True"))
    red = violations(
        find(str(tmp_path / "counts.py")), "merge_alternates_k_and_v", replace(EFFORTS["quick"], seconds=0)
    )
    assert {cell.alone for cell in red} == {"whether it violates alone was not tried, since time is up"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("CALLS[0] > 3", {"float32": TAKES_CALLS, "float16": TAKES_CALLS}),
        ("k.dtype == np.float16 or CALLS[0] > 3", {"float32": TAKES_CALLS, "float16": None}),
        ("k.dtype == np.float32 or CALLS[0] > 8", {"float32": None, "float16": TAKES_CALLS}),
        ("CALLS[0] == 4", {"float32": NOW_AND_THEN}),
    ],
)
def test_each_cell_says_whether_its_own_case_alone_conforms(tmp_path, wrong, said):
    (tmp_path / "counts.py").write_text(COUNTS.replace("WRONG", wrong))
    red = violations(find(str(tmp_path / "counts.py")), "merge_alternates_k_and_v")
    assert {cell.dtype: cell.alone for cell in red} == said
    assert all((cell.rerun is None) == (cell.alone is None) for cell in red)


def decode_subject(attend):
    """An implementation of paged_decode on one layout of float32, in caches that hold numbers where no token is."""
    conventions = numpy_ref.CONVENTIONS | {"dead": {"zero", "finite"}}
    told = {"OFFERS": {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}}}, "CONVENTIONS": conventions}
    told |= {"ARITHMETIC": numpy_ref.ARITHMETIC, "attest": numpy_ref.attest}
    return Subject(SimpleNamespace(**told, paged_decode=attend), "some", "some.py")


def test_a_case_that_is_asked_for_is_the_one_that_is_shown():
    def shifted(*arguments, **options):
        out, lse = numpy_ref.paged_decode(*arguments, **options)
        return out + 1, lse

    case = Case(op="paged_decode", layout="nhd", dtype="float32", seed=7, head_dim=3, kv_lens=(4, 2))
    searcher = Searcher(decode_subject(shifted), Options(EFFORTS["quick"], case=case))
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[DECODE])
    assert Case.from_json(cell.counterexample) == case


@pytest.mark.parametrize("seed", [0, 1, 7, 8, 10])
def test_a_mistake_is_not_named_for_cases_that_one_was_made_smaller_through_or_that_raised(seed):
    """On the smallest cases the newest token is lost; on others it is something else, or an exception."""

    def small_ones_lose_a_token(q, cache, block_table, kv_lens, **options):
        if q.shape[2] > 4:
            raise KeyError("large")
        lost = q.shape[2] == 1
        lens = np.maximum(kv_lens - lost, 0).astype(kv_lens.dtype)
        out, lse = numpy_ref.paged_decode(q, cache, block_table, lens, **options)
        return out if lost else out * np.float32(1.01), lse

    searcher = Searcher(decode_subject(small_ones_lose_a_token), Options(EFFORTS["quick"], seed))
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[DECODE])
    assert (cell.outcome, cell.looks_like) == (VIOLATES, None)


def test_drawn_cases_of_which_most_lie_outside_the_domain_are_said_to():
    subject = Subject(numpy_ref, "numpy_ref", "numpy_ref.py")

    def plain_alone(subject, case):
        if case.family != "plain":
            raise OutsideDomain("too large")

    searcher = Searcher(subject, Options(EFFORTS["quick"], dtypes=("float32",)))
    searcher.begin(1)
    (cell,) = searcher.run(Law("plain_is_seen", "merge_states", plain_alone))
    assert cell.outcome == CONFORMS
    assert not cell.idle
    said = "since others that were drawn cannot be judged or are no evidence"
    assert cell.message == f"{cell.examples}/{cell.planned}, {said}"


@pytest.mark.parametrize("op", ["append", "copy_pages"])
def test_a_pool_of_4_gib_is_left_to_longer_runs_and_one_of_2_gib_is_not(op):
    offer = {"layout": {"nhd"}, "dtype": {"int8", "float16"}, "pool": {"dense", "sparse"}}
    subject = Subject(SimpleNamespace(OFFERS={op: offer}, CONVENTIONS=numpy_ref.CONVENTIONS), "some", "some.py")
    law = all_laws()[f"{op}_counts_elements_beyond_31_bits"]
    assert [cell.dtype for cell, _ in planned(subject, law, Options(EFFORTS["quick"]))] == ["int8"]
    (row,) = left_out(subject, law, Options(EFFORTS["quick"]))
    said = "left to default and thorough: a pool of 4 GiB and more is looked through, as one of 2 GiB was"
    assert (row.dtype, row.message) == ("float16", said)
    assert len(planned(subject, law, Options(EFFORTS["default"]))) == 2


SIZES = {"layout": {"nhd"}, "dtype": {"float32"}}


def _sequences_of(law, profile, offer=SIZES):
    """How many sequences the cases of a law have that are drawn."""
    law, seen = all_laws()[law], Counter()
    subject = Subject(SimpleNamespace(OFFERS={law.op: offer}, CONVENTIONS={}), "some", "some.py")
    options = Options(replace(EFFORTS[profile], seconds=3600.0))
    counted = replace(law, check=lambda subject, case: seen.update([len(case.kv_lens)]), pinned=lambda cell: ())
    searcher = Searcher(subject, options)
    searcher.begin(1)
    (cell,) = searcher.run(counted)
    assert cell.examples == seen.total() >= options.effort.of(law.op).examples
    return set(seen)


@pytest.mark.parametrize("law", ["decode_is_within_the_bound", "update_attends_to_what_it_has_written"])
def test_where_there_is_time_attention_is_drawn_in_large_batches(law):
    assert _sequences_of(law, "default") == set(BATCHES["num_seqs"])
    assert _sequences_of(law, "quick") <= set(NUM_SEQS)
    assert max(BATCHES["num_seqs"]) > 32 > max(NUM_SEQS)


def test_no_batch_is_larger_than_an_offer_allows():
    few = SIZES | {"num_seqs": {"max": 20}}
    assert max(_sequences_of("decode_is_within_the_bound", "default", few)) == 17


@pytest.mark.parametrize("limit", [{"min": 2}, {"min": 2, "max": 4}, {2, 17}], ids=str)
def test_the_simplest_batch_is_the_smallest_that_is_offered_whatever_the_profile(limit):
    law = all_laws()[DECODE]
    subject = Subject(SimpleNamespace(OFFERS={law.op: SIZES | {"num_seqs": limit}}, CONVENTIONS={}), "some", "some.py")
    for profile in ("quick", "default"):
        ((cell, _),) = planned(subject, law, Options(EFFORTS[profile]))
        assert len(law.simplest(cell).kv_lens) == 2


def test_what_moves_tokens_is_drawn_in_small_batches_whatever_the_profile():
    assert _sequences_of("append_writes_exactly_its_slots", "default") == set(NUM_SEQS)
    assert EFFORTS["default"].of("pq_decode_attention").num_seqs == NUM_SEQS


def test_outputs_that_are_met_speak_against_who_would_have_given_others():
    got, said = {"out": np.arange(3)}, {}
    for name, other in (("alike", 0), ("apart", 1)):
        said[name] = lambda other=other: {"out": Exact(np.arange(3) + other, str)}
    with explaining() as met:
        require(got, {"out": Exact(np.arange(3), str)}, lambda: said)
    assert [{name: explains() for name, explains in one.items()} for one in met] == [{"alike": True, "apart": False}]
    require(got, {"out": Exact(np.arange(3), str)}, lambda: pytest.fail("nobody asked what explains it"))


TWICE = """
import numpy as np
from kvconform.impls import numpy_ref as right

NAME = "twice"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "head_dim": {16}, "num_splits": {1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, sm_scale=None, **given):
    scale = 16**-0.5 if sm_scale is None else sm_scale
    return right.paged_decode(q, cache, block_table, kv_lens, sm_scale=scale * (scale if WHERE else 1), **given)
"""
"""An adapter that applies sm_scale twice under a condition."""


def looks_like(tmp_path, source, case=None):
    (tmp_path / "twice.py").write_text(source)
    found = find(str(tmp_path / "twice.py"))
    subject = Subject(found.load(), found.name, str(found.path))
    law = all_laws()["decode_is_within_the_bound"]
    searcher = Searcher(subject, Options(replace(EFFORTS["quick"], seconds=600.0), laws=(law.name,), case=case))
    searcher.begin(1)
    (cell,) = searcher.run(law)
    assert cell.outcome == VIOLATES
    return cell.looks_like, Case.from_json(cell.counterexample)


@pytest.mark.parametrize(
    ("where", "name"),
    [("len(kv_lens) == 3", "sm_scale_is_applied_twice"), ("np.abs(q.astype(float)).max(initial=0) < 1", None)],
)
def test_a_mistake_may_depend_on_a_shape_and_not_on_numbers(tmp_path, monkeypatch, where, name):
    """What it explains where it is made, it explains with other numbers there, too, and so says a replay."""
    source = TWICE.replace("WHERE", where)
    said, witness = looks_like(tmp_path, source)
    assert said == name == looks_like(tmp_path, source, witness)[0]
    monkeypatch.setattr(search, "OTHER_CONTENTS", 0)
    assert looks_like(tmp_path, source)[0] == "sm_scale_is_applied_twice"  # no failing case speaks against it


def test_a_mistake_may_be_hidden_by_other_contents(tmp_path, monkeypatch):
    """Where q is 0 no scale shows: that speaks for nobody, and against nobody."""
    families = all_laws()["decode_is_within_the_bound"].families or (*data.ARITHMETIC_FAMILIES,)
    monkeypatch.setattr(search, "OTHER_CONTENTS", 1 + families.index(data.FLAT))
    source = TWICE.replace("16", "2").replace("WHERE", "True")
    assert looks_like(tmp_path, source)[0] == "sm_scale_is_applied_twice"


def test_who_returns_no_lse_is_called_by_name(tmp_path):
    source = TWICE.replace('"num_splits": {1}', '"returns": {"out"}, "num_splits": {1}').replace("WHERE", "True")
    source = source.replace("else 1), **given)", "else 1), **given)[0]")
    assert looks_like(tmp_path, source)[0] == "sm_scale_is_applied_twice"


def test_who_returns_no_lse_of_codes_is_called_by_name():
    wrong = adapter_named("pq_sm_scale_is_applied_twice").load()
    (op, offer) = next(iter(wrong.OFFERS.items()))
    out_alone = {**vars(wrong), "OFFERS": {op: offer | {"returns": {"out"}}}}
    out_alone[op] = lambda *arrays, **options: getattr(wrong, op)(*arrays, **options)[0]
    searcher = Searcher(Subject(SimpleNamespace(**out_alone), "out_alone", "out_alone.py"), Options(EFFORTS["quick"]))
    searcher.begin(1)
    said = {(cell.outcome, cell.looks_like) for cell in searcher.run(all_laws()["pq_attention_is_within_the_bound"])}
    assert said == {(VIOLATES, "sm_scale_counts_twice")}


def test_the_resolution_of_a_cell_is_of_its_own_cases(tmp_path, monkeypatch):
    """What is called to tell mistakes apart changes no figure of a red cell."""
    source, resolutions = TWICE.replace("WHERE", "max(kv_lens, default=0) > 4"), []
    for contents in (0, 99):
        monkeypatch.setattr(search, "OTHER_CONTENTS", contents)
        (tmp_path / "twice.py").write_text(source)
        (cell,) = violations(find(str(tmp_path / "twice.py")), DECODE)
        resolutions.append((cell.resolution, cell.examples, cell.idle))
    assert resolutions[0] == resolutions[1]
    assert resolutions[0][0] is not None
