"""The suite's power: what is wrong dies and is called by its name or by none, what is right lives.

Wrong adapters are judged in this process, as a child of `kvconform run` would judge them; those that need what this
machine does not have are skipped.
"""

import importlib
import re
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from kvconform.harness import booking
from kvconform.harness.booking import VIOLATES, Booked
from kvconform.harness.cli import all_laws
from kvconform.harness.efforts import EFFORTS, Effort
from kvconform.harness.plan import planned
from kvconform.harness.search import Options, Searcher
from kvconform.harness.subject import Subject
from kvconform.specs.case import Case
from kvconform.specs.conventions import CONVENTIONS, declared
from kvconform.suites.law import Law
from kvconform.tests.families import adapter_named
from kvconform.tests.power import ALONE, FAULTS, IMPLIED, MAIN, NULLS, PLACES, REPEATS, RIGHT, SMALL

WRONG, AS_RIGHT = (Path(__file__).resolve().parent / name for name in ("wrong", "right"))
ASKED_TOGETHER = True  # each adapter is judged once in a process

LITTLE = 15
"""Calls spent on making small what SMALL does not ask to be: a third of these tests' time went into it."""

QUICK = replace(EFFORTS["quick"], seconds=3600.0)  # never cut short: counts decide
EFFORT = replace(QUICK, examples=16, static_examples=8, longer=True)

OTHERS = replace(QUICK, each_family=0)
"""The effort of laws that a right adapter is not made for: how often those are asked is no matter of power."""

PASSED = replace(EFFORT, each_family=0, whole_cells=1), replace(OTHERS, whole_cells=0)
"""The effort of laws that are to leave a fault to others. Of main ones all cells together try what one would, of their
pinned cases each third; of any other law each cell tries a case of either kind. Where each cell tried all, that took
two thirds of the time of these tests."""


ALONE_SOMEWHERE = {fault for faults in ALONE.values() for fault in faults}
"""Faults that every law has to be tried on."""


def laws_for(name: str) -> tuple[str, ...]:
    """The laws that an adapter is judged by: a fault that several laws see, by those, and by the laws that name it."""
    if name not in FAULTS or name in ALONE_SOMEWHERE:
        return tuple(all_laws())
    return tuple(law for law in all_laws() if law in (*FAULTS[name][0], *MAIN))


def effort_for(name: str, law: str) -> Effort:
    """How hard a law is tried on an adapter: its row names those that see it, and what main ones take it for."""
    if name not in FAULTS:
        return EFFORT if law in (*MAIN, *RIGHT.get(name, ())) else OTHERS
    laws, mistake = FAULTS[name]
    if law in laws or (law in MAIN and mistake):
        return EFFORT
    return PASSED[0 if name in ALONE_SOMEWHERE and law in MAIN else 1]


@cache
def booked(name: str, laws: tuple[str, ...] = (), seed: int = 0, **options) -> tuple[Booked, ...]:
    """Every cell of an adapter, under some laws or those that it is judged by; options: fields of Options."""
    in_turns = name in FAULTS and not laws and not options
    laws = laws or laws_for(name)
    found = adapter_named(name)
    if "torch" in found.literals["REQUIRES"]:
        # threads that wait by spinning for tensors this small: ten times as slow on a machine that is busy
        importlib.import_module("torch").set_num_threads(1)
    subject = Subject(found.load(), found.name, str(found.path))
    calls = QUICK.shrink_calls if name in SMALL else LITTLE
    searchers: dict[Effort, Searcher] = {}
    cells = []
    for law in (law for law in all_laws().values() if law.name in laws):
        effort = replace(effort_for(name, law.name), shrink_calls=calls)
        if effort not in searchers:
            searchers[effort] = Searcher(subject, Options(effort, seed, laws=laws, **options))
            searchers[effort].begin(1)
        law = _passed(law) if effort_for(name, law.name) == PASSED[0] else law
        one = in_turns and law.name not in MAIN  # what main laws name is asked in each dtype
        cells += in_one_dtype(searchers[effort], law, name) if one else searchers[effort].run(law)
    return tuple(cells)


def in_one_dtype(searcher: Searcher, law: Law, name: str) -> list[Booked]:
    """The cells of a law in one of the dtypes that a wrong adapter offers, adapters taking turns; in the others as well
    where its row names the law and none of those is violated. It would be as wrong if it offered no other."""
    every = planned(searcher.subject, law, searcher.options)
    dtypes = sorted({cell.dtype for cell, _ in every})
    first = dtypes[zlib.crc32(name.encode()) % len(dtypes)] if dtypes else None
    cells: list[Booked] = []
    for some in ({first}, {*dtypes} - {first}):
        searcher.closed = frozenset(one.key for cell, one in every if cell.dtype not in some)
        cells += searcher.run(law)
        if law.name not in FAULTS[name][0] or any(cell.outcome == VIOLATES for cell in cells):
            break
    return cells


def _passed(law: Law) -> Law:
    """A law with each third of its pinned cases."""
    return replace(law, pinned=lambda cell: law.pinned(cell)[::3])


def killed(name: str) -> list[Booked]:
    """The violating cells of a wrong adapter."""
    return [cell for cell in booked(name) if cell.outcome == VIOLATES]


def test_every_wrong_adapter_has_a_row_and_says_what_is_wrong():
    files = {path.stem: path.read_text() for path in WRONG.glob("[!_]*.py")}
    assert set(files) == {*FAULTS, *NULLS}
    for name, text in files.items():
        assert text.startswith('"""Null: ' if name in NULLS else '"""Wrong: '), name
        assert f'NAME = "{name}"' in text
        assert "oracles" not in text, f"{name} must not know the oracles"
        assert "address" not in text.split('"""', 2)[2], f"{name} must not know the index formula"
        assert len(text.splitlines()) <= 40, name


@pytest.fixture(scope="module", params=FAULTS)
def fault(request) -> str:
    """A wrong adapter; of module scope, so that what is asked of one is asked in one go."""
    if adapter_named(request.param).blocked:
        pytest.skip(adapter_named(request.param).blocked)
    return request.param


def test_wrong_adapter_is_killed_by_its_laws(fault):
    laws, _ = FAULTS[fault]
    assert set(laws) <= {cell.law for cell in killed(fault)}
    assert booking.exit_code([cell.outcome for cell in booked(fault)]) == booking.BAD_EXIT


RAISES = {
    "decode_pages_pass_through_float32": "IndexError",  # a page far past the pool
    "longest_length_for_all": "IndexError",  # padding of a block table
    "merge_keeps_its_first_number_of_heads": "RuntimeError",  # a view of other heads
    "pq_cache_appends_again_in_its_fallback": "RuntimeError",  # no page is left
    "pq_k_is_transposed_too": "ValueError",  # codes in another shape
    "pq_v_is_not_transposed": "IndexError",  # a centroid that there is none of
    "table_is_gathered_beyond_its_sequence": "IndexError",  # padding of a block table
    "table_of_the_next_sequence": "IndexError",  # padding of a block table
}
"""Wrong adapters whose fault may end in an exception wherever a law of their row sees them, and what they raise."""


def test_wrong_adapter_dies_of_what_it_gives_and_of_no_call_that_it_cannot_take(fault):
    """An exception kills, too: of a missing keyword, it would hide that nothing sees the fault."""
    laws, _ = FAULTS[fault]
    red = {law: [cell.message for cell in killed(fault) if cell.law == law] for law in laws}
    raised = {law: [re.search(r"\braised (\w+): ", message) for message in some] for law, some in red.items()}
    assert {found[1] for some in raised.values() if all(some) for found in some} <= {RAISES.get(fault)}


def test_wrong_adapter_is_taken_for_what_it_is_and_for_nothing_else(fault):
    _, mistake = FAULTS[fault]
    named = {cell.key: cell.looks_like for cell in killed(fault) if cell.law in MAIN}
    assert named == dict.fromkeys(named, mistake)
    assert named or not mistake
    assert {cell.looks_like for cell in killed(fault)} <= {None, mistake}


def test_wrong_adapter_is_diagnosed_where_it_is_wrong_about_places_and_nowhere_else(fault):
    told = {cell.diagnosis for cell in killed(fault)} - {None}
    assert bool(told) == (fault in PLACES), told
    assert any(PLACES[fault] in sentence for sentence in told) or not told


def test_fault_that_is_left_to_one_law_of_an_operation_is_killed_by_that_law_alone(fault):
    """Others are tried as hard as PASSED says."""
    for law in (law for law, faults in ALONE.items() if fault in faults):
        assert {cell.law for cell in killed(fault) if cell.op == all_laws()[law].op} == {law}


def test_every_fault_is_killed_by_a_law_that_others_do_not_imply(fault):
    assert {cell.law for cell in killed(fault)} - set(IMPLIED)


def test_each_law_has_three_faults_of_its_own_or_is_implied():
    assert sorted([*ALONE, *IMPLIED]) == sorted(all_laws())
    for law, faults in ALONE.items():
        assert len(set(faults)) >= 3, law
        assert set(faults) <= set(FAULTS), law


def test_at_least_ten_mistakes_are_named():
    assert len({mistake for _, mistake in FAULTS.values() if mistake}) >= 10


@pytest.mark.parametrize("law", all_laws())
def test_law_kills_at_least_one(law):
    able = [name for name in FAULTS if not adapter_named(name).blocked]
    killed_by_it = [name for name in able if law in FAULTS[name][0]]  # as each of them is asked above
    assert killed_by_it or any(cell.outcome == VIOLATES for name in able for cell in booked(name, laws=(law,)))


@pytest.mark.parametrize("name", NULLS)
def test_null_implementation_fails_every_cell_that_it_claims(name):
    cells = booked(name, laws=MAIN, explains=False)
    assert {cell.op for cell in cells} == set(adapter_named(name).load().OFFERS)
    assert {cell.key: cell.outcome for cell in cells} == {cell.key: VIOLATES for cell in cells}


KINDS = ("fused", "nhd", "split_x", "packed", "token_slots", "mla", "kivi", "code_columns")
"""Layouts of different kinds."""


@pytest.mark.parametrize("name", NULLS)
def test_null_implementation_is_taken_for_what_it_is_or_for_nothing(name):
    cells = booked(name, laws=MAIN, layouts=KINDS)
    assert {cell.outcome for cell in cells} == {VIOLATES}
    assert {cell.looks_like for cell in cells} <= {None, NULLS[name]}


def test_every_right_adapter_has_a_row_and_says_what_is_right():
    files = {path.stem: path.read_text() for path in AS_RIGHT.glob("*.py")}
    assert set(files) == set(RIGHT)
    for name, text in files.items():
        assert text.startswith('"""Right: '), name
        assert f'NAME = "{name}"' in text


@pytest.mark.parametrize("name", RIGHT)
def test_right_adapter_passes_whatever_its_conventions(name):
    cells = booked(name)
    assert [cell for cell in cells if cell.outcome != booking.CONFORMS] == []
    assert set(RIGHT[name]) <= {cell.law for cell in cells if cell.examples}


NOT_EACH = ("dead", "table_padding", "empty_rows", "deterministic", "lse_dtype", "alibi_from", "sinks_dtype")
"""Conventions of which right adapters have some choices; others of the last two are tried in tests/test_faults.py."""


@pytest.mark.parametrize("convention", [name for name in CONVENTIONS if name not in NOT_EACH])
def test_each_choice_of_a_convention_is_that_of_a_right_adapter(convention):
    chosen = [declared(adapter_named(name).load().CONVENTIONS)[convention] for name in RIGHT]
    every = {choice for one in chosen for choice in (one if CONVENTIONS[convention].several else [one])}
    assert every == set(CONVENTIONS[convention].choices)


@pytest.mark.parametrize("seed", [2, 12, 14, 18])
def test_adapter_that_fails_now_and_then_violates_and_is_never_called_flaky(seed):
    cells = booked("one_call_in_seven", laws=(REPEATS,), seed=seed)
    assert {cell.key: cell.outcome for cell in cells} == {cell.key: VIOLATES for cell in cells}


@pytest.mark.parametrize("name", SMALL)
def test_witness_has_at_most_two_sequences_and_two_pages(name):
    for cell in (cell for cell in killed(name) if all_laws()[cell.law].drawn):  # pinned cases are not made smaller
        case = Case.from_json(cell.counterexample)
        pages = sum(-(-length // case.page_size) for length in case.kv_lens)
        assert len(case.kv_lens) <= 2, case
        assert pages <= 2, case
