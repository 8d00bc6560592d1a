"""Reads are told pages in any form of page table, pages that a window has evicted as declared, and a scale or none."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import find, given, settings

from kvconform.harness.adapters import find as adapter
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import left_out, planned
from kvconform.harness.power import EFFORT
from kvconform.harness.search import Options
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.specs.case import Case
from kvconform.specs.cells import OfferError, cells
from kvconform.specs.conventions import declared
from kvconform.specs.inputs import digest, inputs
from kvconform.specs.paged import FAR_PAGE
from kvconform.specs.pinned import evicted_pages, table_forms
from kvconform.specs.strategies import cases
from kvconform.specs.tables import FORMS, TABLES
from kvconform.tests.test_power import AS_RIGHT

ONE = Case(
    op="paged_decode", layout="nhd", dtype="float32", kv_lens=(8, 0, 5, 9), page_size=4, spare_pages=2, spare_columns=1
)
OTHERS = FORMS[1:]


def cell_of(op, layout="nhd", conventions=numpy_ref.CONVENTIONS, **offer):
    found = cells(op, numpy_ref.OFFERS[op] | offer, declared(conventions))
    return next(cell for cell in found if (cell.layout, cell.dtype) == (layout, "float32"))


def entries(x):
    """What a form has beyond its sequences."""
    arrays = x.told()["block_table"]
    return arrays["kv_indices"][arrays["kv_indptr"][-1] :]


@pytest.mark.parametrize(("form", "seed", "shared"), list(product(OTHERS, range(5), (0, 1))))
def test_every_form_says_the_pages_of_the_block_table(form, seed, shared):
    x = inputs(replace(ONE, table_form=form, seed=seed, shared_pages=shared))
    pages = TABLES[form].read(x.told()["block_table"], 4)
    assert pages.kv_lens == (8, 0, 5, 9)
    assert pages.k == tuple(tuple(row[:n]) for row, n in zip(x.tables[0].tolist(), x.pages_of, strict=True))
    assert (len(set(sum(pages.k, ()))) < len(sum(pages.k, ()))) == bool(shared)


@pytest.mark.parametrize(("form", "dtype"), list(product(OTHERS, ("int32", "int64"))))
def test_every_array_of_a_form_is_an_index(form, dtype):
    told = inputs(replace(ONE, table_form=form, index_dtype=dtype)).told()
    assert set(told["block_table"]) == set(TABLES[form].arrays) - {"kv_lens"}
    assert {array.dtype.name for array in (*told["block_table"].values(), told["kv_lens"])} == {dtype}


@pytest.mark.parametrize(("form", "dtype"), list(product(OTHERS, ("int32", "int64"))))
def test_surplus_entries_hold_what_table_padding_says(form, dtype):
    each = 4 if TABLES[form].of_tokens else 1
    found = {}
    for padding in ("valid", "null", "minus_one", "huge"):
        x = inputs(replace(ONE, table_form=form, table_padding=padding, index_dtype=dtype))
        found[padding] = set(entries(x).tolist())
        assert len(x.told()["block_table"]["kv_indices"]) == 4 * 4 * each  # room for each sequence, and a column
    pool = x.sizes["page"] * each
    assert found["minus_one"] == {-1}
    assert found["valid"] <= set(range(pool))
    assert len(found["valid"]) > 1
    assert {entry // each for entry in found["null"]} == {x.null_page}
    assert min(found["huge"]) >= FAR_PAGE > pool


@pytest.mark.parametrize("seed", range(8))
def test_an_empty_sequence_has_a_last_page_len_that_flashinfer_allows_and_that_means_nothing(seed):
    lens = (0, 4, 0, 0, 3, 0)
    told = [
        inputs(replace(ONE, kv_lens=lens, table_form="csr", seed=s)).told()["block_table"] for s in (seed, seed + 1)
    ]
    for arrays in told:
        last = arrays["last_page_len"]
        assert ((last >= 1) & (last <= 4)).all()
        assert last[[1, 4]].tolist() == [4, 3]
    assert len({int(n) for arrays in told for n in arrays["last_page_len"][[0, 2, 3, 5]]}) > 1


@pytest.mark.parametrize("form", FORMS)
def test_some_sequences_alone_and_shorter_ones_are_told_like_all(form):
    x = inputs(replace(ONE, table_form=form))
    some, shorter = x.told(np.array([3, 0])), x.told(kv_lens=np.array([4, 0, 1, 9], np.int32))
    assert some["kv_lens"].tolist() == [9, 8]
    if form == FORMS[0]:
        assert np.array_equal(some["block_table"], x.block_table[[3, 0]])
        assert np.array_equal(shorter["block_table"], x.block_table)
        return
    runs = [tuple(row[:n]) for row, n in zip(x.tables[0].tolist(), x.pages_of, strict=True)]
    assert TABLES[form].read(some["block_table"], 4).k == (runs[3], runs[0])
    assert TABLES[form].read(shorter["block_table"], 4).k == (runs[0][:1], (), runs[2][:1], runs[3])


def test_the_digest_sees_the_form():
    assert len({digest(replace(ONE, table_form=form)) for form in FORMS}) == len(FORMS)


def test_a_form_is_drawn_only_where_it_is_offered():
    assert cell_of("gather").allowed("table_form") == list(FORMS)
    silent = {axis: some for axis, some in numpy_ref.OFFERS["gather"].items() if axis != "table_form"}
    (cell, *_) = cells("gather", silent, declared({}))
    assert cell.allowed("table_form") == ["block_table"]
    assert cell_of("gather", table_form={"csr"}).allowed("table_form") == ["csr"]


@pytest.mark.parametrize("layout", ["bshd", "trtllm_blocks"])
def test_rows_without_one_list_of_pages_have_the_usual_form_alone(layout):
    assert cell_of("gather", layout).allowed("table_form") == ["block_table"]
    with pytest.raises(OfferError, match="no table_form to draw from"):
        cell_of("gather", layout, table_form={"csr"}).allowed("table_form")


@pytest.mark.parametrize("form", OTHERS)
def test_what_forms_are_about_is_pinned(form):
    for op in ("gather", "paged_decode"):
        (case,) = (case for case in table_forms(cell_of(op)) if case.table_form == form)
        assert case.kv_lens == (case.page_size, 0, case.page_size + 1)
        assert case.spare_columns


def test_a_law_that_calls_gather_with_cases_of_append_says_nothing_where_their_form_is_not_offered():
    found = adapter(str(AS_RIGHT / "takes_csr_alone.py"))
    subject, options = Subject(found.load(), found.name, found.file), Options(EFFORT)
    law = all_laws()["what_was_appended_is_gathered"]
    assert not planned(subject, law, options)
    assert {"has table_form block_table" in booked.message for booked in left_out(subject, law, options)} == {True}
    assert planned(subject, all_laws()["decode_reads_what_was_appended"], options)


# --- pages that a window has evicted

WINDOWED = replace(ONE, kv_lens=(9, 0, 5, 8), window=3)


@pytest.mark.parametrize(("instead", "form"), list(product(("null", "minus_one"), FORMS)))
def test_entries_of_whole_hidden_pages_are_replaced_and_no_other(instead, form):
    """Of 9 keys 6, 7, 8 are seen: page 0 is hidden; of 8 keys 5, 6, 7; of 5 keys 2, 3, 4, in the first page too."""
    x = inputs(replace(WINDOWED, evicted_pages=instead, table_form=form))
    changed = x.given[0] != x.tables[0]
    assert changed.tolist() == [[column == 0 and seq in (0, 3) for column in range(4)] for seq in range(4)]
    assert set(x.given[0][changed].tolist()) == {-1 if instead == "minus_one" else x.null_page}
    told = x.told()["block_table"]
    if isinstance(told, dict):
        first = told["kv_indices"][told["kv_indptr"][[0, 3]]]
        size = 4 if TABLES[form].of_tokens else 1
        assert set((first // size).tolist()) == {-1 if instead == "minus_one" else x.null_page}


def test_with_more_query_tokens_what_the_oldest_sees_stays():
    x = inputs(replace(WINDOWED, evicted_pages="minus_one", q_lens=(4, 1, 2, 2)))
    assert (x.given[0] != x.tables[0]).any(1).tolist() == [False, False, False, True]
    more = inputs(replace(WINDOWED, evicted_pages="minus_one", q_lens=(4, 1, 2, 3)))
    assert not (more.given[0] != more.tables[0]).any()


def test_of_shorter_sequences_less_is_evicted():
    x = inputs(replace(WINDOWED, evicted_pages="minus_one"))
    told = x.told(kv_lens=np.array([4, 0, 4, 8], np.int32))["block_table"]
    assert (told[:, 0] < 0).tolist() == [False, False, False, True]


def test_a_null_page_is_renamed_like_all_others_and_where_there_is_none_pages_are_kept():
    x = inputs(replace(WINDOWED, evicted_pages="null"))
    other = x.with_pages_renamed()
    assert np.array_equal(other.given[0], x.sizes["page"] - 1 - x.given[0])
    full = inputs(replace(WINDOWED, evicted_pages="null", spare_pages=0))
    assert full.null_page is None
    assert np.array_equal(full.given[0], full.tables[0])


def test_a_null_page_that_evicted_entries_name_is_dead():
    x = inputs(replace(WINDOWED, evicted_pages="null", spare_columns=0, kv_lens=(9, 9)))
    assert set((x.dead_slots[0]["null"] // 4).tolist()) == {x.null_page}
    kept = inputs(replace(WINDOWED, spare_columns=0, kv_lens=(9, 9)))
    assert not len(kept.dead_slots[0]["null"])


@settings(max_examples=60)
@given(case=cases(cell_of("paged_decode")))
def test_without_a_window_nothing_is_evicted(case):
    assert case.window or case.evicted_pages == "kept"


def test_evicted_pages_are_drawn_and_pinned_where_declared_and_nowhere_else():
    cell = cell_of("paged_decode")
    assert [case.evicted_pages for case in evicted_pages(cell)] == ["null", "minus_one"]
    found = find(cases(cell), lambda case: case.evicted_pages == "minus_one" and max(case.kv_lens) > 8)
    assert found.window
    silent = cell_of("paged_decode", conventions={})
    assert evicted_pages(silent) == ()
    assert silent.allowed("evicted_pages") == ["kept"]
    assert cell_of("paged_decode", window={0}).allowed("evicted_pages") == ["kept"]


# --- the scale that is not given


@pytest.mark.parametrize(
    ("means", "scale", "head_dim", "given"),
    [
        ("undefined", None, 16, 0.25),
        ("head_dim", None, 16, None),
        ("head_dim", 0.25, 16, None),
        ("head_dim", 1.0, 16, 1.0),
        ("one", None, 16, 0.25),
        ("one", 1.0, 16, None),
        ("one", None, 1, None),
    ],
)
def test_a_scale_is_left_out_exactly_where_that_means_the_same(means, scale, head_dim, given):
    assert inputs(replace(ONE, sm_scale=scale, head_dim=head_dim)).scale_told(means) == given


def test_pages_are_renamed_behind_the_first_of_each_row_alone():
    shape = {"page_size": 2, "kv_lens": (7, 6), "spare_pages": 2}
    x = inputs(Case(op="paged_decode", layout="nhd", dtype="float32", **shape))
    table, renamed = x.tables[0], x.with_pages_renamed(first=False).tables[0]
    assert (renamed[:, 0] == table[:, 0]).all()
    assert (renamed[:, 1:] != table[:, 1:]).any()
    assert (x.with_pages_renamed().tables[0][:, 0] != table[:, 0]).any()


@pytest.mark.parametrize("layout", ["nhd", "trtllm_blocks"])
def test_tails_of_valid_pages_are_by_turns_a_live_page_of_another_sequence(layout):
    """Who reads a page too many finds keys there that look like any others."""
    lens, seen = (8, 0, 5, 1), set()
    for seed in range(20):
        x = inputs(replace(ONE, layout=layout, kv_lens=lens, seed=seed, spare_columns=3, spare_pages=4))
        for table in x.tables:
            live = [set(row[:pages].tolist()) for row, pages in zip(table, x.pages_of, strict=True)]
            for seq, pages in enumerate(x.pages_of):
                others = set().union(*(some for other, some in enumerate(live) if other != seq))
                tail = table[seq, pages:].tolist()
                assert set(tail[::2]) <= others
                seen |= {page in others for page in tail[1::2]}
    assert seen == {True, False}  # the others are any pages


def test_tails_of_valid_pages_are_any_page_where_no_other_sequence_has_one():
    x = inputs(replace(ONE, kv_lens=(0, 9, 0), spare_columns=2, spare_pages=4))
    assert set(x.tables[0][1, x.pages_of[1] :].tolist()) <= set(range(x.sizes["page"]))
    alone = inputs(replace(ONE, kv_lens=(9,), spare_columns=50, spare_pages=4))
    assert set(alone.tables[0][0, alone.pages_of[0] :].tolist()) == set(range(alone.sizes["page"]))
