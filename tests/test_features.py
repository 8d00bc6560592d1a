"""Features of attention meet pairwise, show or are no evidence; forms of lse turn into each other and back."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from kvconform.harness.adapters import find
from kvconform.harness.booking import CONFORMS, NOT_OFFERED
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import Options
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.specs import lse
from kvconform.specs.case import Case, CaseError
from kvconform.specs.conventions import CONVENTIONS, declared
from kvconform.specs.features import FEATURES, OFF, alone, covering
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import evicted, evicted_pages, schedule, table_forms
from kvconform.specs.strategies import cells

BOUND = "decode_is_within_the_bound"


@pytest.fixture(scope="module")
def reference():
    found = find("numpy_ref")
    return Subject(found.load(), found.name, str(found.path))


def cell_of(subject, layout="nhd", **offer):
    return next(
        cell
        for cell in cells("paged_decode", subject.offers["paged_decode"] | offer, subject.conventions)
        if cell.layout == layout
    )


def judged(subject, case):
    options = Options(EFFORTS["quick"], layouts=(case.layout,), dtypes=(case.dtype,), laws=(BOUND,), case=case)
    searcher = Searcher(subject, options)
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[BOUND])
    return cell


def test_any_two_values_meet_in_a_covering_schedule():
    pools = {name: row.pool for name, row in FEATURES.items()}
    rows = covering(pools)
    assert len(rows) < np.prod([len(pool) for pool in pools.values()]) / 5
    assert rows[0] == {name: row.off for name, row in FEATURES.items()}
    for (one, some), (other, others) in combinations(pools.items(), 2):
        assert set(product(some, others)) == {(row[one], row[other]) for row in rows}


def test_nothing_to_cover_is_one_empty_row():
    assert covering({}) == ({},)


def test_any_two_offered_features_are_on_together_in_a_pinned_case(reference):
    on = [
        {name for name in FEATURES if getattr(case, name) not in ("none", 0, ())}
        for case in schedule(cell_of(reference))
    ]
    assert all(any({one, other} <= some for some in on) for one, other in combinations(FEATURES, 2))


def test_the_laws_that_rest_on_pinned_cases_of_features_have_them(reference):
    cell, laws = cell_of(reference), all_laws()
    of_evicted = {*evicted(cell), *evicted_pages(cell)}
    assert {*schedule(cell), *of_evicted, *table_forms(cell)} <= set(laws[BOUND].pinned(cell))
    assert of_evicted == set(laws["decode_ignores_dead_slots"].pinned(cell))


def test_every_offered_feature_shows_in_the_cell_of_the_bound(reference):
    options = Options(EFFORTS["quick"], layouts=("nhd",), dtypes=("float32",), laws=(BOUND,))
    searcher = Searcher(reference, options)
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[BOUND])
    assert cell.outcome == CONFORMS
    assert {name: cell.features.get(name, 0) > 0 for name in FEATURES} == dict.fromkeys(FEATURES, True)


PLAIN = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(9, 4), page_size=4, head_dim=8, seed=3)


@pytest.mark.parametrize(
    "silent",
    [{"soft_cap": 50.0, "family": "tiny"}, {"window": 17}, {"soft_cap": 50.0, "family": "flat", "window": 17}],
    ids=str,
)
def test_a_case_in_which_no_feature_shows_is_no_evidence(reference, silent):
    cell = judged(reference, replace(PLAIN, **silent))
    assert (cell.outcome, cell.examples, cell.idle, cell.features) == (NOT_OFFERED, 0, 1, {})


@pytest.mark.parametrize(
    "shown",
    [
        {"soft_cap": 2.0, "family": "sharp"},
        {"window": 3},
        {"sinks": "dominant"},
        {"alibi_slopes": "drawn"},
        {"q_lens": (2, 2)},
    ],
    ids=str,
)
def test_a_case_in_which_its_feature_shows_is_evidence(reference, shown):
    cell = judged(reference, replace(PLAIN, **shown))
    (feature,) = set(shown) - {"family"}
    assert (cell.outcome, cell.examples, cell.features) == (CONFORMS, 1, {feature: 1})


def test_evicted_tokens_are_those_older_than_every_window():
    x = inputs(replace(PLAIN, window=3, q_lens=(2, 1)))
    seq, position = x.owners
    assert [(int(seq[i]), int(position[i])) for i in x.evicted] == [*((0, n) for n in range(5)), (1, 0)]
    assert not len(inputs(PLAIN).evicted)


def test_what_a_window_hides_holds_the_worst_in_a_pinned_case(reference):
    (case,) = evicted(cell_of(reference))
    assert (case.poison, case.dead) == ("evicted", "nan")
    assert len(inputs(case).evicted)
    assert evicted(cell_of(reference, window={0})) == ()


def test_a_case_of_other_q_lens_than_sequences_is_refused():
    data = replace(PLAIN, q_lens=(1, 2)).to_json()
    assert Case.from_json(data).q_lens == (1, 2)
    with pytest.raises(CaseError, match="a case of 2 kv_lens and 1 q_lens"):
        Case.from_json(data | {"q_lens": [1]})


def test_features_are_off_alone_or_not():
    assert OFF == {"window": (0,), "soft_cap": (0.0,), "sinks": ("none",), "alibi_slopes": ("none",), "q_lens": (1,)}
    assert set(alone("window", "sinks")) == {"soft_cap", "alibi_slopes", "q_lens"}


FORMS = [dict(zip(lse.OWN, some, strict=True)) for some in product(*(CONVENTIONS[name].choices for name in lse.OWN))]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form.values()))
def test_an_lse_in_any_form_and_back_is_what_it_was(form):
    own = np.array([[0.5, -np.inf, 2.0], [-1.0, 3.0, -np.inf]], np.float32)
    told = lse.convert(own, lse.OWN, form)
    assert (told.shape, told.dtype) == lse.signature(own.shape, form)
    back = lse.convert(told, form, lse.OWN)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(np.isneginf(back), np.isneginf(own))
    unit = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[form["lse_dtype"]]
    live = np.isfinite(own)
    assert (np.abs(back[live] - own[live]) <= unit * np.abs(own[live])).all()


def test_without_numbers_an_lse_keeps_every_bit():
    form = declared({"lse_base": "2", "lse_axes": "heads, rows", "lse_of_empty": "inf", "lse_dtype": "float16"})
    own = np.array([[0.1, -np.inf, 2.7]], np.float32)
    told = lse.convert(own, lse.OWN, form, numbers=False)
    assert told.dtype == np.float32
    np.testing.assert_array_equal(told, np.array([[0.1], [np.inf], [2.7]], np.float32))
