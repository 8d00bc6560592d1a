"""Cells take turns: of a law with many each tries a part, none tries nothing, and together they leave nothing out."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kvconform.harness.booking import CONFORMS, LEFT, VIOLATES, Booked, Run
from kvconform.harness.cli import all_laws
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.expectations import Expectation
from kvconform.harness.plan import Options, left_out, planned
from kvconform.harness.report import footer
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.harness.turns import Turn, met
from kvconform.impls import numpy_ref
from kvconform.oracles.verdict import Violation
from kvconform.specs.cells import Cell
from kvconform.specs.conventions import declared
from kvconform.specs.dtypes import is_floating
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.pinned import high_pages, pinned
from kvconform.suites.law import Law
from kvconform.tests.power import BOUND

QUICK = EFFORTS["quick"]
FEW = QUICK.whole_cells
PINNED = tuple(f"pinned {i}" for i in range(26))
FAMILIES = tuple(f"family {i}" for i in range(19))
LAYOUTS = (
    "nhd",
    "hnd",
    "heads_first",
    "page_first_hnd",
    "token_slots",
    "kv_first_nhd",
    "kv_first_hnd",
    "page_first_nhd",
)
WIDE = {"append": {"layout": set(LAYOUTS), "dtype": {"float32", "bfloat16", "int8"}}}


def turns(num, effort=QUICK, static=False):
    return [Turn(place, num, effort, static) for place in range(num)]


@pytest.mark.parametrize("static", [False, True], ids=["free", "static"])
@pytest.mark.parametrize("num", [1, 2, 7, 8, 9, 10, 27, 81, 123, 500])
def test_together_they_try_each_pinned_case_and_each_family_as_often_as_a_few_whole_cells(num, static):
    some = turns(num, static=static)
    pinned_cases = Counter(case for turn in some for case in turn.pinned(PINNED))
    assert set(pinned_cases) == set(PINNED)
    assert min(pinned_cases.values()) >= (num if num <= FEW else QUICK.pinned_cells)
    owed = Counter()
    for turn in some:
        owed.update(turn.families(FAMILIES))
        assert turn.planned(PINNED, FAMILIES) <= turn.alone.planned(PINNED, FAMILIES)
    if owed and num > FEW:
        assert min(owed[family] for family in FAMILIES) >= (num // len(FAMILIES) if static else QUICK.each_family)
    drawn = sum(turn.planned((), FAMILIES) for turn in some)
    assert drawn >= min(num, FEW) * some[0].examples


@pytest.mark.parametrize("num", [9, 27, 123, 132])
def test_where_no_other_law_is_tried_each_cell_tries_as_many_as_any_other(num):
    uneven, alike = ([Turn(place, num, QUICK, alike=alike) for place in range(num)] for alike in (False, True))
    (count,) = {turn.planned(PINNED, FAMILIES) for turn in alike}
    assert count == max(turn.planned(PINNED, FAMILIES) for turn in uneven)
    assert count * num >= sum(turn.planned(PINNED, FAMILIES) for turn in uneven)


def test_a_cell_tries_no_pinned_cases_that_stand_side_by_side_alone():
    places = [sorted(PINNED.index(case) for case in turn.pinned(PINNED)) for turn in turns(50)]
    assert {len(some) for some in places} == {2, 3}
    assert sum(some[-1] - some[0] >= len(some) for some in places) > 40


@pytest.mark.parametrize("num", [1, 9, 123])
def test_no_cell_is_left_without_a_case(num):
    for turn in turns(num):
        for one in (turn, turn.shortest):
            assert one.pinned(PINNED)
            assert not one.pinned(())
            assert one.planned((), FAMILIES)


def test_cells_that_are_few_and_those_of_longer_runs_try_all():
    for turn in (*turns(FEW), *turns(500, EFFORTS["default"]), *turns(500, EFFORTS["thorough"])):
        assert turn.whole
        assert turn.pinned(PINNED) == PINNED
        assert turn.begins_with_the_simplest
        assert not turn.draws_first


def test_of_cells_whose_calls_are_slow_every_other_one_tries_the_simplest_case():
    assert sum(turn.begins_with_the_simplest for turn in turns(80)) == 1
    assert sum(turn.begins_with_the_simplest for turn in turns(80, static=True)) == 40


def test_a_run_that_owes_no_family_draws_as_many_cases_as_it_says():
    some = turns(1, replace(QUICK, each_family=0))
    assert [turn.planned((), FAMILIES) for turn in some] == [QUICK.examples]


GRID = tuple((layout, dtype) for layout in LAYOUTS for dtype in ("float32", "float16", "bfloat16", "int8"))
RAGGED = (*GRID, ("packed", "uint8"), ("packed_hd64", "uint8"), ("mla", "bfloat16"), ("mla", "float32"))


def cells_of(grid):
    return [SimpleNamespace(layout=layout, dtype=dtype) for layout, dtype in grid]


@pytest.mark.parametrize("law", ["one_law", "another_law", "a_third"])
@pytest.mark.parametrize("grid", [RAGGED, GRID, GRID[:12], GRID[:9], GRID[::4], GRID[:4]], ids=len)
def test_what_a_law_meets_is_each_layout_and_each_dtype_and_a_few_cells_at_least(grid, law):
    cells = cells_of(grid)
    chosen = [cells[place] for place in met(cells, FEW, law)]
    layouts, dtypes = {layout for layout, _ in grid}, {dtype for _, dtype in grid}
    assert {cell.layout for cell in chosen} == layouts
    assert {cell.dtype for cell in chosen} == dtypes
    assert min(FEW, len(grid)) <= len(chosen) <= max(FEW, len(layouts) + len(dtypes))


def test_a_layout_is_met_where_a_law_can_tell_more_and_a_dtype_all_the_same():
    cells = cells_of(RAGGED)

    def telling(cell):
        return cell.dtype in ("float32", "uint8")

    chosen = [cells[place] for place in met(cells, FEW, "one_law", telling)]
    assert {cell.layout for cell in chosen if telling(cell)} == {layout for layout, _ in RAGGED}
    assert {cell.dtype for cell in chosen} == {dtype for _, dtype in RAGGED}


@pytest.mark.parametrize("name", ["decode_ignores_dead_slots", "decode_does_not_see_its_neighbours"])
def test_a_short_run_looks_for_what_is_dead_where_it_may_be_nan(name):
    law, subject = all_laws()[name], Subject(numpy_ref, "numpy_ref", "numpy_ref.py")
    every, tried = (
        [cell for cell, _ in planned(subject, law, Options(effort))] for effort in (EFFORTS["default"], QUICK)
    )
    assert len(tried) < len(every) / 2
    floating = [{cell.layout for cell in cells if is_floating(cell.dtype)} for cells in (every, tried)]
    assert floating[0] == floating[1]


def test_another_seed_takes_other_cells():
    tried = {frozenset(plan_of(SOME_LAW, seed=seed)[0]) for seed in range(4)}
    assert len(tried) > 1


def test_what_is_kept_for_one_implementation_is_not_for_another():
    assert plan_of(SOME_LAW, kept={("other", key) for _, key in ALL_KEPT}) == plan_of(SOME_LAW)


def test_dtypes_are_met_alike_where_each_layout_has_them_all():
    cells = cells_of(GRID)
    assert set(Counter(cells[place].dtype for place in met(cells, FEW, "one_law")).values()) == {2}


def test_laws_meet_a_layout_in_different_dtypes():
    places = set(range(len(GRID)))
    assert {place for law in range(24) for place in met(cells_of(GRID), FEW, f"law_{law}")} == places


SOME_LAW = Law("all_is_well", "append", lambda subject, case: None)
DTYPES = tuple(sorted(WIDE["append"]["dtype"]))
ALL_KEPT = {("some", f"append/{layout}/{dtype}/{SOME_LAW.name}") for layout in LAYOUTS for dtype in DTYPES}


def plan_of(law, effort=QUICK, **options):
    """The cells that are tried, and those that are not with outcome and message."""
    adapter = SimpleNamespace(OFFERS=WIDE, CONVENTIONS=numpy_ref.CONVENTIONS, append=numpy_ref.append)
    subject, asked = Subject(adapter, "some", "some.py"), Options(effort, **options)
    tried = {(cell.layout, cell.dtype) for cell, _ in planned(subject, law, asked)}
    return tried, {(row.layout, row.dtype): (row.outcome, row.message) for row in left_out(subject, law, asked)}


EVERY_CELL = plan_of(replace(SOME_LAW, every_cell=True))


def test_a_law_that_says_so_is_tried_in_every_cell():
    tried, left = EVERY_CELL
    assert {layout for layout, _ in tried} == set(LAYOUTS)
    assert {dtype for _, dtype in tried} == set(DTYPES)
    assert len(tried) > 2 * len(LAYOUTS)
    assert left == {}


def test_a_short_run_leaves_to_longer_ones_what_is_met_elsewhere_and_says_so():
    tried, left = plan_of(SOME_LAW)
    assert len(tried) == len(LAYOUTS)
    assert tried < EVERY_CELL[0]
    assert set(left) == EVERY_CELL[0] - tried
    why = "it is tried in another dtype of this layout, and in this dtype of another layout"
    assert set(left.values()) == {(LEFT, f"left to default and thorough: {why}")}
    run = Run("some", cells={str(at): Booked("some", "append", *at, SOME_LAW.name, LEFT) for at in left})
    assert f"; {len(left)} cells are left to longer runs" in footer(run)
    assert "; 1 cell is left to longer runs" in footer(Run("some", cells=dict([*run.cells.items()][:1])))


@pytest.mark.parametrize("at", sorted(EVERY_CELL[0])[::7])
def test_what_is_wrong_in_one_dtype_of_one_layout_is_seen_by_a_short_run(at):
    def append(cache, k, v, slot_mapping, *, layout):
        wrong = (layout, k.dtype.name) == at
        return cache if wrong else numpy_ref.append(cache, k, v, slot_mapping, layout=layout)

    adapter = SimpleNamespace(OFFERS=WIDE, CONVENTIONS=numpy_ref.CONVENTIONS, append=append)
    searcher = Searcher(Subject(adapter, "some", "some.py"), Options(replace(QUICK, seconds=3600.0), explains=False))
    searcher.begin(1)
    laws = [law for law in all_laws().values() if law.op == "append" and not law.operations]
    cells = [cell for law in laws for cell in searcher.run(law)]
    assert {(cell.layout, cell.dtype) for cell in cells if cell.outcome == VIOLATES} == {at}


@pytest.mark.parametrize(
    "options",
    [{"effort": EFFORTS["default"]}, {"effort": EFFORTS["thorough"]}, {"kept": ALL_KEPT}],
    ids=["default", "thorough", "kept"],
)
def test_no_cell_is_left_to_longer_runs(options):
    assert plan_of(SOME_LAW, **options) == EVERY_CELL


def test_the_cell_of_an_expectations_witness_is_tried_by_a_short_run():
    adapter = SimpleNamespace(OFFERS=WIDE, CONVENTIONS=numpy_ref.CONVENTIONS, append=numpy_ref.append)
    law, subject = all_laws()["append_writes_nothing_out_of_range"], Subject(adapter, "some", "some.py")
    left = {(row.layout, row.dtype) for row in left_out(subject, law, Options(QUICK)) if row.outcome == LEFT}
    layout, dtype = min(left)
    witness = law.simplest(Cell("append", layout, dtype, WIDE["append"], subject.conventions))
    searcher = Searcher(subject, Options(QUICK))
    searcher.expectations = (Expectation("some", (law.name,), "known", witness),)
    assert (layout, dtype) not in {(cell.layout, cell.dtype) for cell, _ in planned(subject, law, searcher.options)}
    searcher.read_expectations(all_laws())
    assert (layout, dtype) in {(cell.layout, cell.dtype) for cell, _ in planned(subject, law, searcher.options)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_who_asks_for_a_dtype_has_all_of_its_cells(dtype):
    assert plan_of(SOME_LAW, dtypes=(dtype,)) == ({at for at in EVERY_CELL[0] if dtype in at}, {})


def test_who_asks_for_a_few_layouts_has_all_of_their_cells():
    assert plan_of(SOME_LAW, layouts=LAYOUTS[:2]) == ({at for at in EVERY_CELL[0] if at[0] in LAYOUTS[:2]}, {})


def test_a_case_of_a_cell_that_is_left_to_longer_runs_is_replayed_by_a_short_one():
    at = min(plan_of(SOME_LAW)[1])
    case = SOME_LAW.simplest(Cell("append", *at, WIDE["append"], declared({})))
    assert plan_of(SOME_LAW, case=case) == ({at}, {})


@pytest.mark.parametrize("op", OPERATIONS)
def test_each_operation_has_a_law_that_is_tried_in_every_cell(op):
    assert any(law.every_cell and law.drawn for law in all_laws().values() if law.op == op)


def test_time_is_shared_out_by_what_cells_try():
    adapter = SimpleNamespace(OFFERS=WIDE, CONVENTIONS=numpy_ref.CONVENTIONS, append=numpy_ref.append)
    searcher = Searcher(Subject(adapter, "some", "some.py"), Options(replace(QUICK, seconds=100.0)))
    two = [replace(SOME_LAW, name=f"with_{n}", pinned=lambda cell, n=n: some_pinned(cell)[:n]) for n in (0, 4)]
    assert [searcher.tries_of(law) for law in two] == [6, 6 + 4]  # each of 8 cells
    assert searcher.tries_of(replace(two[1], drawn=False)) == 6  # what is pinned alone is large
    wrong = replace(SOME_LAW, name="raises", pinned=lambda cell: 1 // 0)
    assert searcher.tries_of(wrong) == 1  # it is raised when the law is tried
    with pytest.raises(ZeroDivisionError):
        searcher.run(wrong)
    searcher.begin(10)
    before = searcher.until()
    searcher.tries_left = 4
    assert searcher.until() - before == pytest.approx(60.0 * 6 / 10, abs=1.0)


def searched(law, effort=QUICK, seconds=3600.0, offers=WIDE, **options):
    """What is booked of a law, tried in every cell, on an adapter that has two dozen of them."""
    adapter = SimpleNamespace(OFFERS=offers, CONVENTIONS=numpy_ref.CONVENTIONS, append=numpy_ref.append)
    searcher = Searcher(Subject(adapter, "some", "some.py"), Options(replace(effort, seconds=seconds), **options))
    searcher.begin(1)
    return searcher.run(replace(law, every_cell=True))


def some_pinned(cell):
    """Four cases, told apart by their seeds."""
    return tuple(pinned(cell, seed=1000 + i, kv_lens=(3,)) for i in range(4))


def test_a_cell_tries_what_it_is_booked_for_and_says_that_it_takes_turns():
    law = replace(SOME_LAW, families=("plain", "bits"), pinned=some_pinned)
    cells = searched(law)
    assert len(cells) > FEW
    assert {cell.outcome for cell in cells} == {CONFORMS}
    assert [cell.examples for cell in cells] == [cell.planned for cell in cells]
    assert {cell.planned for cell in cells} == {1 + 3}  # of 22: 4 cases in 4 of them, 6 in 8, one each at least
    assert {cell.whole for cell in cells} == {4 + 6}
    run = Run("some", cells={cell.key: cell for cell in cells})
    assert f"; {len(cells)} cells take turns, each with a part of the cases" in footer(run)
    alone = searched(law, layouts=("nhd",))
    assert {(cell.examples, cell.planned, cell.whole) for cell in alone} == {(10, 10, 10)}
    assert "turns" not in footer(Run("some", cells={cell.key: cell for cell in alone}))


@pytest.mark.parametrize("seconds", [3600.0, 0.0], ids=["with time", "without"])
@pytest.mark.parametrize("number", range(4))
def test_what_is_wrong_in_one_pinned_case_is_seen_in_some_cell(number, seconds):
    def check(subject, case):
        if case.seed == 1000 + number:
            raise Violation("wrong")

    cells = searched(Law("one_is_wrong", "append", check, pinned=some_pinned), seconds=seconds)
    assert VIOLATES in {cell.outcome for cell in cells}
    assert CONFORMS in {cell.outcome for cell in cells}


@pytest.mark.parametrize("seconds", [3600.0, 0.0], ids=["with time", "without"])
@pytest.mark.parametrize("family", ["plain", "bits"])
def test_what_is_wrong_in_one_family_is_seen_in_some_cell(family, seconds):
    def check(subject, case):
        if case.family == family and case.seed not in range(1000, 1004):
            raise Violation("wrong")

    cells = searched(Law("one_is_wrong", "append", check, pinned=some_pinned), seconds=seconds)
    assert VIOLATES in {cell.outcome for cell in cells}


@pytest.mark.parametrize("seconds", [3600.0, 0.0], ids=["with time", "without"])
def test_most_cells_are_tried_on_more_than_the_simplest_case(seconds):
    seen = []
    cells = searched(Law("all_is_well", "append", lambda subject, case: seen.append(case)), seconds=seconds)
    least = [case for case in seen if case.kv_lens == (1,) and case.seed == 0]
    assert len(seen) == sum(cell.examples for cell in cells)
    assert 1 <= len(least) <= 3
    assert all(cell.examples for cell in cells)


def test_a_cell_that_violates_everywhere_has_the_simplest_case_for_a_witness_at_once():
    seen = []

    def check(subject, case):
        seen.append(case)
        if case.layout == "hnd":
            raise Violation("wrong")

    wrong = [cell for cell in searched(Law("one_is_wrong", "append", check)) if cell.layout == "hnd"]
    for cell in wrong:
        assert (cell.outcome, cell.counterexample["kv_lens"], cell.counterexample["seed"]) == (VIOLATES, [1], 0)
    first = [case for case in seen if (case.layout, case.dtype) == (wrong[0].layout, wrong[0].dtype)]
    assert len(first) == 2  # the one that was drawn, and the simplest


def test_a_cell_whose_family_shows_nothing_is_tried_on_others():
    def check(subject, case):
        if case.family == "bits":
            subject.saw_nothing()

    few = replace(QUICK, examples=1)
    cells = searched(Law("bits_show_nothing", "append", check), few, layouts=LAYOUTS[:3])
    assert len(cells) > FEW
    assert {cell.planned for cell in cells} == {1}
    assert {cell.outcome for cell in cells} == {CONFORMS}


def test_where_time_is_up_a_cell_says_that_it_is_cut_short():
    for cell in searched(Law("all_is_well", "append", lambda subject, case: None, pinned=some_pinned), seconds=0.0):
        assert cell.message == f"cut short 1/{cell.planned}"


def test_high_pages_of_both_numbers_are_tried():
    cells = searched(all_laws()["append_reaches_high_pages"])
    law = all_laws()["append_reaches_high_pages"]
    assert law.pinned is high_pages
    assert {cell.planned for cell in cells} == {1}
    assert {cell.whole for cell in cells} == {2}


def test_the_bound_of_one_cell_is_tried_on_all_that_is_pinned():
    subject = Subject(numpy_ref, "numpy_ref", "numpy_ref.py")
    searcher = Searcher(subject, Options(QUICK, layouts=("nhd",), dtypes=("float32",), laws=(BOUND,)))
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[BOUND])
    assert cell.planned == cell.whole
