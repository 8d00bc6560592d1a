"""Memory that operations are given to write into: who is given it, what it holds, and what every call is held to."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.harness.adapters import AdapterError, check
from kvconform.harness.booking import CONFORMS, NOT_REACHED, VIOLATES
from kvconform.harness.cli import all_laws
from kvconform.harness.search import Options, Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.oracles import paged
from kvconform.oracles.verdict import Raised, Violation
from kvconform.specs import data
from kvconform.specs import lse as lse_forms
from kvconform.specs.case import Case
from kvconform.specs.cells import POOL
from kvconform.specs.inputs import inputs
from kvconform.specs.layouts import LAYOUTS
from kvconform.suites.calls import attend, attention, gathering
from kvconform.suites.test_relations import in_one_memory
from kvconform.tests.families import adapter_named
from kvconform.tests.power import BOUND, BUFFERS, DEAD, MERGE_REPEATS, PAGES, PQ_PAGES, REPEATS
from kvconform.tests.test_exit_codes import TREE, ended, kvconform
from kvconform.tests.test_power import EFFORT

ONE = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3, 0, 5), page_size=2, head_dim=6, num_splits=2)
INTO = {"out", "lse", "workspace"}


def of(decode, into=frozenset(INTO), size=numpy_ref.WORKSPACE["paged_decode"], **more):
    """An implementation of paged_decode alone."""
    offer = {"strides": {"contiguous", "outer", "all"}, "num_splits": range(1, 8), **({"into": into} if into else {})}
    sizes = {"paged_decode": size} if "workspace" in into else {}
    adapter = SimpleNamespace(OFFERS={"paged_decode": offer}, WORKSPACE=sizes, paged_decode=decode, **more)
    check(adapter, "some.py", "some")
    return Subject(adapter, "some", "some.py")


def seen(case, into=frozenset(INTO)):
    """Copies of the memory that a call of a Case is given."""
    given = {}

    def decode(*arguments, **options):
        given.update({name: options[name].copy() for name in INTO if name in options})
        return numpy_ref.paged_decode(*arguments, **options)

    attend(of(decode, into), case, paged.filled(inputs(case), "zero"))
    return given


@pytest.mark.parametrize("strides", ["contiguous", "outer", "all"])
def test_what_is_offered_is_given_where_the_case_says_and_holds_nan_and_garbage(strides):
    nan = replace(ONE, buffers="nan", strides=strides)
    assert seen(replace(nan, buffers="own")) == {}
    assert set(seen(nan)) == INTO
    assert set(seen(nan, {"out"})) == {"out"}
    assert seen(nan, frozenset()) == {}
    for name, array in seen(nan).items():
        assert np.isnan(array.view(np.float32) if name == "workspace" else array).all()
    assert len(np.unique(seen(replace(nan, seed=1))["workspace"])) > 8


def test_memory_of_every_type_is_filled():
    for dtype in ("float32", "float16", "bfloat16"):
        assert np.isnan(data.unwritten(dtype, (3, 2)).astype(np.float64)).all()
    for dtype in ("int8", "uint8", "float8_e4m3fn"):
        assert (data.unwritten(dtype, (64,)).view(np.uint8) == 0xFF).all()
        assert len(np.unique(data.unwritten(dtype, (64,), seed=1).view(np.uint8))) > 8


def test_memory_that_was_used_holds_what_the_call_before_left_until_another_case_begins():
    case, held = replace(ONE, buffers="used"), []

    def decode(*arguments, **options):
        held.append(options["out"].copy())
        return numpy_ref.paged_decode(*arguments, **options)

    one = of(decode)
    for fresh in (False, False, True):
        if fresh:
            one.begin()
        got = attend(one, case, paged.filled(inputs(case), "zero"))
    assert np.isnan(held[0]).all()
    assert np.array_equal(held[1], got["out"])
    assert np.isnan(held[2]).all()


@pytest.mark.parametrize("layout", ["nhd", "token_head_scales", "mla_packed", "code_rows"])
def test_gather_is_given_memory_for_each_part(layout):
    row = LAYOUTS[layout]
    case = Case(op="gather", layout=layout, dtype=row.dtypes[0], kv_lens=(2, 1), buffers="nan")
    case = replace(case, head_dim=row.fixed.get("dim", 8))
    given = []

    def gather(*arguments, k=None, v=None, **options):
        given.append((k, v))
        return numpy_ref.gather(*arguments, k=k, v=v, **options)

    one = Subject(SimpleNamespace(OFFERS={"gather": {"into": {"k", "v"}}}, gather=gather), "some", "some.py")
    x = inputs(case)
    got = one.call(case, "gather", **gathering(x, paged.filled(x, "zero")))
    for side, memory in zip((x.k, x.v), given[0], strict=True):
        assert type(memory) is type(side)
    assert all(np.array_equal(got[part.name], x.tokens[part.name]) for part in x.row.parts)


def returns_another(*arguments, out, lse, **options):
    return numpy_ref.paged_decode(*arguments, **options)


def leaves_a_row(*arguments, **options):
    out, lse = numpy_ref.paged_decode(*arguments, **options)
    out[1] = data.unwritten("float32", out[1].shape)
    return out, lse


def adds(*arguments, out, **options):
    result, lse = numpy_ref.paged_decode(*arguments, **options)
    out += result
    return out, lse


def runs_over(*arguments, workspace, **options):
    storage = workspace if workspace.base is None else workspace.base
    storage[len(workspace) :] = 0
    return numpy_ref.paged_decode(*arguments, workspace=workspace, **options)


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        (returns_another, "was given out to write into, which differs from what it returned"),
        (leaves_a_row, r"left in 6 of 18 elements of out the NaN that was there before the call, first at \(1, 0, 0\)"),
        (adds, "left in 18 of 18 elements of out the NaN"),
        (runs_over, "wrote beside its argument workspace"),
    ],
)
def test_call_that_leaves_anything_but_its_results_violates(decode, said):
    case = replace(ONE, buffers="nan", strides="outer")
    with pytest.raises(Violation, match=said):
        attend(of(decode), case, paged.filled(inputs(case), "zero"))


def test_size_of_a_workspace_that_raises_is_a_violation():
    one = of(numpy_ref.paged_decode, size=lambda *arguments, **options: 1 // 0)
    cache = paged.filled(inputs(ONE), "zero")
    with pytest.raises(Raised, match=r"WORKSPACE\['paged_decode'\] raised ZeroDivisionError"):
        attend(one, replace(ONE, buffers="nan"), cache)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"OFFERS": {"paged_decode": {"into": {"outt"}}}}, "names into 'outt'; did you mean 'out'"),
        ({"OFFERS": {"paged_decode": {"into": {"workspace"}}}}, "there is no such function"),
        ({"WORKSPACE": {"paged_decode": len}}, "there is no such offer"),
        (
            {"OFFERS": {"paged_decode": {"into": {"workspace"}}}, "WORKSPACE": {"paged_decode": 64}},
            "must be a function",
        ),
        ({"OFFERS": {"append": {"into": {"cache"}}}, "append": len}, "names axis 'into'"),
    ],
)
def test_offer_of_memory_that_means_nothing_is_refused(more, said):
    adapter = SimpleNamespace(**{"OFFERS": {"paged_decode": {}}, "paged_decode": len} | more)
    with pytest.raises(AdapterError, match=said):
        check(adapter, "some.py", "some")


def _offered(decode):
    """numpy_ref on one layout, with windows and another paged_decode."""
    offers = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "window": {"min": 0}}}
    told = {"CONVENTIONS": numpy_ref.CONVENTIONS, "ARITHMETIC": numpy_ref.ARITHMETIC, "paged_decode": decode}
    return Subject(SimpleNamespace(OFFERS=offers, attest=numpy_ref.attest, **told), "some", "some.py")


def pages_of_nobody_are_multiplied_by_zero(q, cache, block_table, kv_lens, **options):
    """Whole pages that no table names."""
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **options)
    free = np.setdiff1d(np.arange(len(cache["v"])), block_table)
    return out + np.float32(0) * cache["v"][free].sum(dtype=np.float32), lse


def keys_behind_the_window_are_multiplied_by_zero(q, cache, block_table, kv_lens, *, window=None, **options):
    """Live tokens that are older than the window, where their pages are still named."""
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, window=window, **options)
    pages, size, seen = len(cache["v"]), cache["v"].shape[1], np.float32(0)
    for table, length in zip(block_table, kv_lens, strict=True):
        position = np.arange(max(0, length - window) if window else 0)
        page = table[position // size]
        there = (page >= 0) & (page < pages)
        seen += cache["v"][page[there], position[there] % size].sum(dtype=np.float32)
    return out + np.float32(0) * seen, lse


REGION_OF = {
    "first_key_of_padding_is_multiplied_by_zero": "null",
    "gaps_between_dims_are_multiplied_by_zero": "gaps",
    "dead_v_is_multiplied_by_zero": "tails",
    "padded_dims_are_multiplied_by_zero": "padding",
    pages_of_nobody_are_multiplied_by_zero: "free",
    keys_behind_the_window_are_multiplied_by_zero: "evicted",
}
"""A wrong adapter, or function -> the only region of dead bytes that it reads."""


def outcomes(wrong, **only):
    """What a law on dead slots, restricted further, says of a wrong adapter's cells.

    Pages of evicted tokens keep their place in tables: else nobody's pages are among them.
    """
    law, effort = all_laws()[DEAD], replace(EFFORT, examples=48)
    only = law.only | only | {"evicted_pages": ("kept",)}
    subject = _offered(wrong) if callable(wrong) else None
    if subject is None:
        found = adapter_named(wrong)
        subject = Subject(found.load(), found.name, str(found.path))
    searcher = Searcher(subject, Options(effort, 0, laws=(DEAD,)))
    searcher.begin(1)
    return {cell.outcome for cell in searcher.run(replace(law, only=only, pinned=lambda cell: ()))}


@pytest.mark.parametrize("wrong", REGION_OF)
def test_fault_that_reads_one_region_of_dead_bytes_shows_in_that_region_alone(wrong):
    said = {region: outcomes(wrong, poison=(region,)) for region in POOL["poison"] if region != "all"}
    assert said.pop(REGION_OF[wrong]) == {VIOLATES}
    assert CONFORMS in set().union(*said.values())
    assert all(seen <= {CONFORMS, NOT_REACHED} for seen in said.values()), said


@pytest.mark.parametrize("wrong", [one for one, region in REGION_OF.items() if region != "evicted"])  # which live
def test_fault_that_reads_one_region_of_dead_bytes_shows_where_all_are_poisoned(wrong):
    assert outcomes(wrong, poison=("all",), dead=("nan",)) == {VIOLATES}


def test_null_page_is_owned_by_none_and_all_padding_names_it():
    for seed in range(8):
        x = inputs(replace(ONE, seed=seed, table_padding="null", spare_pages=2, spare_columns=1))
        owned = {int(slot) // 2 for slot in x.slots[0]}
        beyond = {int(page) for row, n in zip(x.tables[0], x.pages_of, strict=True) for page in row[n:]}
        assert beyond == {min(set(range(x.sizes["page"])) - owned)}
        full = inputs(replace(ONE, seed=seed, table_padding="null"))
        assert set(full.tables[0].ravel().tolist()) <= set(range(full.sizes["page"]))


def test_law_about_used_memory_judges_who_offers_it_and_nobody_else():
    options = Options(EFFORT, 0, laws=(BUFFERS,), layouts=("nhd",))
    some = (Subject(numpy_ref, "numpy_ref", "numpy_ref.py"), of(numpy_ref.paged_decode, frozenset()))
    offering, silent = (Searcher(one, options).run(all_laws()[BUFFERS]) for one in some)
    assert {cell.outcome for cell in offering} == {CONFORMS}
    assert silent == []


def test_call_that_leaves_used_memory_has_a_key_for_each_query_token_as_it_may_be_undefined_otherwise():
    def decode(q, cache, table, kv_lens, *, q_lens=None, **options):
        if (np.asarray(kv_lens) < (1 if q_lens is None else q_lens)).any():
            raise ValueError("a query token without keys")
        return numpy_ref.paged_decode(q, cache, table, kv_lens, q_lens=q_lens, **options)

    offer = {"into": {"out"}, "q_lens": {"min": 1}, "layout": {"nhd"}, "dtype": {"float32"}}
    conventions = {"empty_rows": "undefined"}
    adapter = SimpleNamespace(OFFERS={"paged_decode": offer}, CONVENTIONS=conventions, paged_decode=decode)
    (cell,) = Searcher(Subject(adapter, "some", "some.py"), Options(EFFORT, 0, laws=(BUFFERS,))).run(
        all_laws()[BUFFERS]
    )
    assert cell.outcome == CONFORMS


@pytest.mark.parametrize(
    "form",
    [{"lse_axes": "heads, rows"}, {"lse_dtype": "float16"}, {"lse_of_empty": "inf"}, {"lse_base": "2"}],
    ids=lambda form: next(iter(form)),
)
def test_memory_for_lse_has_the_form_that_is_declared(form):
    form = lse_forms.OWN | form

    def decode(*arguments, out=None, lse=None, **options):
        found, nats = numpy_ref.paged_decode(*arguments, **options)
        nats = lse_forms.convert(nats, lse_forms.OWN, form)
        if out is None:
            return found, nats
        assert (lse.shape, lse.dtype) == (nats.shape, nats.dtype)
        out[...], lse[...] = found, nats
        return out, lse

    offer = {"into": {"out", "lse"}, "layout": {"nhd"}, "dtype": {"float32"}}
    adapter = SimpleNamespace(OFFERS={"paged_decode": offer}, CONVENTIONS=form, paged_decode=decode)
    options = Options(EFFORT, 0, laws=(BOUND, BUFFERS))
    for law in options.laws:
        (cell,) = Searcher(Subject(adapter, "some", "some.py"), options).run(all_laws()[law])
        assert cell.outcome == CONFORMS, cell


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_merge_is_given_lses_of_the_declared_type(dtype):
    def merge_states(outs, lses, *, out=None):
        if lses.dtype.name != dtype:
            raise TypeError(lses.dtype)
        merged, lse = numpy_ref.merge_states(outs, lses.astype(np.float32))
        if out is not None:
            out[...] = merged
        return merged if out is None else out, lse.astype(lses.dtype)

    offer, conventions = {"into": {"out"}, "dtype": {"float32"}}, {"lse_dtype": dtype}
    adapter = SimpleNamespace(OFFERS={"merge_states": offer}, CONVENTIONS=conventions, merge_states=merge_states)
    options = Options(EFFORT, 0, laws=(MERGE_REPEATS,))
    (cell,) = Searcher(Subject(adapter, "some", "some.py"), options).run(all_laws()[MERGE_REPEATS])
    assert cell.outcome == CONFORMS, cell


STRIDES = ("contiguous", "outer", "all")


def renamed(case):
    """(inputs of a Case, the same with other page numbers): the same shapes."""
    return inputs(case), inputs(case).with_pages_renamed()


@pytest.mark.parametrize("strides", STRIDES)
def test_arguments_are_written_over_those_of_the_call_before_where_a_law_asks_for_that(strides):
    held = []

    def decode(q, cache, block_table, kv_lens, **options):
        held.append([q, *cache.values(), block_table, kv_lens])
        return numpy_ref.paged_decode(q, cache, block_table, kv_lens, **options)

    subject, case = of(decode, frozenset()), replace(ONE, strides=strides, spare_pages=1)
    one, two = renamed(case)
    wider, _ = renamed(replace(case, spare_columns=1))
    with subject.overwriting() as overwrote:
        first = attention(subject, one, paged.filled(one, "zero"))
        assert not overwrote()
        second = attention(subject, two, paged.filled(two, "zero"))
        assert overwrote()
        tables = [held[0][-2].copy(), held[1][-2].copy()]
        attention(subject, wider, paged.filled(wider, "zero"))
    attention(subject, two, paged.filled(two, "zero"))
    assert not overwrote()
    assert all(np.shares_memory(a, b) for a, b in zip(held[0], held[1], strict=True))
    assert [np.shares_memory(a, b) for a, b in zip(held[1], held[2], strict=True)] == [True, True, True, False, True]
    assert not any(np.shares_memory(a, b) for a, b in zip(held[2], held[3], strict=True))
    assert not subject.apart
    assert np.array_equal(tables[1], two.block_table)  # both views are of what the second call was given
    assert np.array_equal(first["out"], second["out"])


@pytest.mark.parametrize("strides", STRIDES[1:])
def test_what_writes_beside_an_argument_that_was_written_over_is_seen(strides):
    calls = []

    def decode(q, *arguments, **options):
        calls.append(q)
        if len(calls) > 1:
            q.base.reshape(-1)[-1] += 1
        return numpy_ref.paged_decode(q, *arguments, **options)

    subject, case = of(decode, frozenset()), replace(ONE, strides=strides)
    one, two = renamed(case)
    with subject.overwriting():
        attention(subject, one, paged.filled(one, "zero"))
        with pytest.raises(Violation, match="wrote beside its argument q"):
            attention(subject, two, paged.filled(two, "zero"))


def test_handles_that_take_no_assignment_are_made_anew():
    held = []

    def decode(q, cache, block_table, kv_lens, **options):
        held.append(block_table)
        cache = {name: one[0] for name, one in cache.items()}
        return numpy_ref.paged_decode(q[0], cache, block_table[0], kv_lens[0], **options)

    handles = {"to_device": lambda array: (array,), "to_host": lambda one: one[0] if isinstance(one, tuple) else one}
    subject = of(decode, frozenset(), **handles)
    one, two = renamed(ONE)
    with subject.overwriting() as overwrote:
        first, second = (attention(subject, x, paged.filled(x, "zero")) for x in (one, two))
        assert not overwrote()  # which a message would say otherwise
    assert subject.apart == "q: a handle of tuple raises TypeError"
    assert np.array_equal(held[0][0], one.block_table)
    assert np.array_equal(held[1][0], two.block_table)
    assert np.array_equal(first["out"], second["out"])


UNASSIGNED = """
from kvconform.impls import numpy_ref as right

NAME, BACKEND = "unassigned", "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def to_device(array):
    return (array,)


def to_host(handle):
    return handle[0] if isinstance(handle, tuple) else handle


def paged_decode(q, cache, block_table, kv_lens, **options):
    cache = {name: one[0] for name, one in cache.items()}
    return right.paged_decode(q[0], cache, block_table[0], kv_lens[0], **options)
"""


@pytest.mark.parametrize("law", [PAGES, REPEATS])
def test_a_run_says_which_argument_could_not_be_written_over_where_a_law_asked_for_that(tmp_path, law):
    (tmp_path / "unassigned.py").write_text(UNASSIGNED)
    done = kvconform(tmp_path, "run", "--impl", "unassigned.py", "--law", law)
    said = "q: a handle of tuple raises TypeError" if law == PAGES else ""
    assert done.code == 0
    assert done.report["impls"][0]["apart"] == said
    suites = [str(TREE / "suites"), "-q", "-p", "no:cacheprovider", "--kv-impl", "unassigned.py", "--kv-law", law]
    for one in (done, ended([sys.executable, "-m", "pytest", *suites], tmp_path)):
        assert one.code == 0
        assert ("not every argument can be assigned to that of the call before" in one.text) == bool(said)


class Rebound:
    """A handle whose views are views of memory, and whose assignment takes other memory."""

    def __init__(self, array):
        self.array = array

    def __getitem__(self, at):
        return Rebound(self.array[at])

    def __setitem__(self, at, other):
        self.array = other.array.copy()


@pytest.mark.parametrize("strides", STRIDES)
def test_handles_whose_views_an_assignment_does_not_reach_are_made_anew(strides):
    held = []

    def decode(q, cache, block_table, kv_lens, **options):
        held.append(block_table.array.copy())
        cache = {name: one.array for name, one in cache.items()}
        return numpy_ref.paged_decode(q.array, cache, block_table.array, kv_lens.array, **options)

    handles = {"to_device": Rebound, "to_host": lambda one: one.array if isinstance(one, Rebound) else one}
    subject = of(decode, frozenset(), **handles)
    one, two = renamed(replace(ONE, strides=strides))
    with subject.overwriting():
        first, second = (attention(subject, x, paged.filled(x, "zero")) for x in (one, two))
    of_views = "cache k: what a handle of Rebound takes, its views do not show"
    assert subject.apart == ("" if strides == "contiguous" else of_views)
    assert [table.tolist() for table in held] == [one.block_table.tolist(), two.block_table.tolist()]
    assert np.array_equal(first["out"], second["out"])


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("table_is_planned_for_the_memory_that_it_lies_in", PAGES),
        ("pq_page_ids_are_planned_for_the_memory_that_they_lie_in", PQ_PAGES),
    ],
)
def test_what_goes_wrong_in_the_memory_of_the_call_before_alone_is_said_to(name, law):
    found = adapter_named(name)
    searcher = Searcher(Subject(found.load(), found.name, str(found.path)), Options(EFFORT, laws=(law,)))
    searcher.begin(1)
    cells = searcher.run(all_laws()[law])
    assert {cell.outcome for cell in cells} == {VIOLATES}
    assert all("in memory that held the arguments of the call before" in cell.message for cell in cells)


def test_what_lies_in_the_gaps_of_a_cache_is_written_over_too():
    subject, gaps = of(numpy_ref.paged_decode, frozenset()), set()
    with subject.overwriting():
        for dead in ("nan", "inf", "finite"):
            case = replace(ONE, strides="outer", dead=dead)
            gaps.add(case.gaps)
            attention(subject, inputs(case), paged.filled(inputs(case), "zero"))  # raises where it is told from a write
    assert len(gaps) == 3


def test_calls_have_memory_of_their_own_where_the_seed_is_the_simplest_and_with_half_of_the_others():
    """What is seen there, and is made smaller to, does not take the memory of another call."""
    over = []
    subject = SimpleNamespace(overwriting=lambda: nullcontext(over.append(True)))
    case = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(3,))
    for seed in range(40):
        with in_one_memory(subject, replace(case, seed=seed)):
            assert seed or not over
    assert 10 < len(over) < 30
