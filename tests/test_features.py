"""Features of attention meet pairwise, show or are no evidence; forms of lse turn into each other and back."""

from dataclasses import replace
from itertools import combinations, pairwise, permutations, product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

from kvconform.faults.of_features import FEATURE_FAULTS
from kvconform.harness.adapters import find
from kvconform.harness.booking import CONFORMS, NOT_OFFERED, VIOLATES
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.faulty import FaultySubject
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import Options
from kvconform.harness.power import EFFORT
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.oracles import keys, paged
from kvconform.oracles.decode import DecodeReading, attended, expected, locate, rounding
from kvconform.oracles.mistakes import MISTAKES
from kvconform.oracles.verdict import Violation
from kvconform.specs import lse, trees
from kvconform.specs.case import Case, CaseError
from kvconform.specs.cells import cells
from kvconform.specs.conventions import CONVENTIONS, declared
from kvconform.specs.features import FEATURES, OFF, alone, covering, possible
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import (
    BESIDE,
    beside,
    branches,
    evicted,
    evicted_pages,
    far_below,
    loud_garbage,
    schedule,
    sizes_beside,
    table_forms,
)
from kvconform.specs.profile import Profile
from kvconform.specs.strategies import cases
from kvconform.suites.calls import attend
from kvconform.tests.families import adapter_named

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
        there_are = {pair for pair in product(some, others) if possible(dict(zip((one, other), pair, strict=True)))}
        assert there_are == {(row[one], row[other]) for row in rows}


def test_nothing_to_cover_is_one_empty_row():
    assert covering({}) == ({},)


def test_any_two_offered_features_are_on_together_in_a_pinned_case(reference):
    on = [
        {name for name in FEATURES if getattr(case, name) not in ("none", 0, ())}
        for case in schedule(cell_of(reference))
    ]
    assert all(any({one, other} <= some for some in on) for one, other in combinations(FEATURES, 2))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("row", BESIDE, ids=["long", "many query tokens", "wide heads", "many heads"])
def test_usual_sizes_meet_each_other_and_each_feature_in_a_pinned_case(reference, row, dtype):
    """A kernel that is taken for long sequences, or wide groups, alone may lack a feature."""
    cell = cell_of(reference, dtype={dtype})
    made = beside(cell, row)
    assert set(made) <= {*sizes_beside(cell)} <= set(all_laws()[BOUND].pinned(cell))
    assert all(sum(n > 1 for n in case.q_lens) == 2 for case in made if case.q_lens)
    shown = {"sinks": ("drawn",), "soft_cap": (2.0,), "alibi_slopes": ("drawn",)}
    trees = max(row["q_lens"]) >= FEATURES["tree_mask"].beside["q_lens"]
    sizes = shown | row | ({"tree_mask": ("drawn",)} if trees else {})
    sizes |= {"kv_scales": tuple(one for one in row["kv_scales"] if cell.takes(kv_scales=(one,)))}

    def has(case, axis, value):
        told = {"longest": max(case.kv_lens), "num_seqs": len(case.kv_lens), "q_lens": max(case.q_lens, default=1)}
        return told.get(axis, getattr(case, axis, None)) == value

    def meet(one, other):
        return any(has(case, *one) and has(case, *other) for case in made)

    each = [(axis, value) for axis, some in sizes.items() for value in some]
    assert [pair for pair in combinations(each, 2) if pair[0][0] != pair[1][0] and not meet(*pair)] == []


def test_a_long_sequence_stands_before_short_ones_and_behind_them(reference):
    made = [case for case in sizes_beside(cell_of(reference)) if max(case.kv_lens) > 512]
    assert {case.kv_lens.index(max(case.kv_lens)) for case in made} == {0, 1}


def test_the_laws_that_rest_on_pinned_cases_of_features_have_them(reference):
    cell, laws = cell_of(reference), all_laws()
    of_evicted = {*evicted(cell), *evicted_pages(cell)}
    assert {*schedule(cell), *of_evicted, *table_forms(cell)} <= set(laws[BOUND].pinned(cell))
    assert {*of_evicted, *loud_garbage(cell)} == set(laws["decode_ignores_dead_slots"].pinned(cell))
    update = cells("append_decode", reference.offers["append_decode"], reference.conventions)[0]
    assert {*evicted(update), *loud_garbage(update)} == set(laws["update_ignores_dead_slots"].pinned(update))
    assert loud_garbage(update)


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
        {"q_lens": (4, 4), "tree_mask": "drawn"},
    ],
    ids=str,
)
def test_a_case_in_which_its_feature_shows_is_evidence(reference, shown):
    cell = judged(reference, replace(PLAIN, **shown))
    features = set(shown) - {"family"}
    assert (cell.outcome, cell.examples, cell.features) == (CONFORMS, 1, dict.fromkeys(features, 1))


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


@pytest.mark.parametrize("law", ["decode_does_not_see_its_neighbours", "decode_does_not_depend_on_its_batch"])
@pytest.mark.parametrize("seed", range(8))
def test_laws_that_follow_one_sequence_follow_one_that_has_query_tokens(reference, law, seed):
    """What is never asked of shows nothing, whatever it sees."""

    def paged_decode(q, cache, block_table, kv_lens, **options):
        out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **options)
        return out + cache["v"].sum() + len(kv_lens), lse

    offer = {"layout": {"nhd"}, "dtype": {"float32"}, "q_lens": {"min": 0}}
    adapter = SimpleNamespace(OFFERS={"paged_decode": offer}, paged_decode=paged_decode)
    case = replace(PLAIN, seed=seed, kv_lens=(3, 3, 3, 3), q_lens=(0, 0, 2, 0), dead="finite")
    with pytest.raises(Violation, match="sequence 2"):
        all_laws()[law].check(Subject(adapter, "leaks", "leaks.py"), case)


@pytest.mark.parametrize("op", ["paged_decode", "append_decode"])
@pytest.mark.parametrize("seed", range(4))
def test_no_query_token_is_dealt_to_a_sequence_that_cannot_have_it(reference, op, seed):
    law = {
        "paged_decode": "decode_follows_one_changed_argument",
        "append_decode": "update_follows_one_changed_argument",
    }
    case = replace(PLAIN, op=op, seed=seed, kv_lens=(0, 5), q_lens=(0, 1))
    all_laws()[law[op]].check(reference, case)


@pytest.mark.parametrize("causal", ["bottom_right", "top_left"])
@pytest.mark.parametrize(
    "name", ["sequences_without_query_tokens_have_one", "rows_go_to_sequences_without_query_tokens"]
)
def test_rows_of_another_sequence_stand_there_as_its_own_do(name, causal):
    x = inputs(replace(PLAIN, kv_lens=(5, 6, 9), q_lens=(0, 2, 3)))
    right = DecodeReading.right(x, declared({"causal": causal}))
    read = MISTAKES[name].changes[0](x, right)
    seq_of = {"sequences_without_query_tokens_have_one": [0, 1, 1, 2, 2]}.get(name, [0, 0, 2, 2, 2])
    own = (np.array(x.case.kv_lens)[seq_of] - 1 - read.newer).tolist()
    first = (
        {0: 0, 1: 0, 2: 0} if causal == "top_left" else {seq: n - seq_of.count(seq) for seq, n in enumerate((5, 6, 9))}
    )
    assert read.seq_of.tolist() == seq_of
    assert own == [first[seq] + seq_of[:row].count(seq) for row, seq in enumerate(seq_of)]


def test_a_row_is_said_to_be_a_query_token_where_as_many_rows_as_sequences_are_not_one_each():
    x = inputs(replace(PLAIN, kv_lens=(0, 0), q_lens=(2, 0)))
    where = locate(x, DecodeReading.right(x, declared({})))["lse"]
    assert [where((row, 0)).split(", ")[:2] for row in (0, 1)] == [
        ["seq 0", "query token 0"],
        ["seq 0", "query token 1"],
    ]
    of_each = inputs(replace(PLAIN, kv_lens=(0, 0)))
    assert "query token" not in locate(of_each, DecodeReading.right(of_each, declared({})))["lse"]((1, 0))


class _Recorded(Subject):
    """Remembers the query tokens of each call."""

    def call(self, case, op, **arguments):
        self.told = [*getattr(self, "told", []), arguments["q_lens"]]
        return super().call(case, op, **arguments)


def test_query_tokens_are_dealt_to_other_sequences_between_two_calls_of_a_law(reference):
    """As many rows of as many sequences as in the call before: a plan may be kept for these."""
    subject = _Recorded(reference.adapter, reference.name, reference.file)
    searcher = Searcher(subject, Options(EFFORTS["quick"], layouts=("nhd",)))
    searcher.begin(1)
    searcher.run(all_laws()["decode_follows_one_changed_argument"])
    several = [(one, two) for one, two in pairwise(subject.told) if one is not None and two is not None]
    alike = [(one, two) for one, two in several if len(one) == len(two) and one.sum() == two.sum()]
    assert sum(not np.array_equal(one, two) for one, two in alike) > 10  # 5 where all arguments change as often


@pytest.mark.parametrize("q_lens", [[0, 0], [-1, 2]])
def test_a_case_without_a_query_token_is_refused(q_lens):
    data = replace(PLAIN, kv_lens=(3, 3), q_lens=(0, 2)).to_json()
    assert Case.from_json(data).num_q_rows == 2
    with pytest.raises(CaseError, match="in which no sequence has a query token, or one less than 0"):
        Case.from_json(data | {"q_lens": q_lens})


def test_features_are_off_alone_or_not():
    none = dict.fromkeys(("sinks", "alibi_slopes", "tree_mask"), ("none",))
    assert {"window": (0,), "soft_cap": (0.0,), "q_lens": (1,), **none} == OFF
    assert set(alone("window", "sinks")) == {"soft_cap", "alibi_slopes", "q_lens", "tree_mask"}


# --- trees


TREE = replace(PLAIN, kv_lens=(9, 4, 7, 6), q_lens=(5, 1, 4, 5), tree_mask="drawn")


def squares(case):
    """Of each sequence the part of the mask that is its own."""
    x = inputs(case)
    return [x.tree_mask[x.q_rows[0] == seq, :size] for seq, size in enumerate(case.q_lens)]


@pytest.mark.parametrize("seed", range(8))
def test_a_tree_mask_is_what_parents_make_of_it(seed):
    for seq, square in enumerate(squares(replace(TREE, seed=seed))):
        above = trees.parents(seed, seq, len(square))
        for node, row in enumerate(square):
            path = {node}
            while node:
                assert above[node] < node
                node = above[node]
                path.add(node)
            assert set(np.flatnonzero(row)) == path


def test_chains_stars_and_bushy_trees_are_drawn_and_no_two_neighbours_are_chains():
    shapes = [[tuple(trees.parents(seed, seq, 5)) for seq in range(4)] for seed in range(16)]
    chain, star = (0, 0, 1, 2, 3), (0,) * 5
    drawn = {shape for batch in shapes for shape in batch}
    assert {chain, star} < drawn
    assert len(drawn) > 8
    assert not any(one == other == chain for batch in shapes for one, other in pairwise(batch))


def test_columns_that_are_no_token_s_hold_either_truth():
    x = inputs(TREE)
    beyond = np.arange(5) >= np.repeat(TREE.q_lens, TREE.q_lens)[:, None]
    assert set(x.tree_mask[beyond]) == {True, False}


def test_what_lies_in_those_columns_changes_nothing(reference):
    x = inputs(TREE)
    cache = paged.filled(x, "zero")
    beyond = np.arange(5) >= np.repeat(TREE.q_lens, TREE.q_lens)[:, None]
    first, second = (attend(reference, TREE, cache, tree_mask=x.tree_mask ^ flip) for flip in (False, beyond))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_query_token_sees_what_is_older_than_all_of_them_and_its_ancestors():
    x = inputs(replace(TREE, kv_lens=(9, 4, 7, 3)))
    reading = DecodeReading.right(x, declared({}))
    for seq, (square, num_keys) in enumerate(zip(squares(x.case), x.case.kv_lens, strict=True)):
        older = max(num_keys - len(square), 0)
        want = np.concatenate([np.ones((len(square), older), bool), square[:, max(len(square) - num_keys, 0) :]], 1)
        want &= np.arange(num_keys) <= num_keys - len(square) + np.arange(len(square))[:, None]
        np.testing.assert_array_equal(reading.seen(seq), want)


def test_a_mask_of_all_keys_is_the_rows_of_what_is_seen():
    x = inputs(TREE)
    flat = trees.told(x.tree_mask, x.q_lens, x.kv_lens, "all_keys")
    assert flat.dtype == bool
    reading = DecodeReading.right(x, declared({}))
    np.testing.assert_array_equal(flat, np.concatenate([reading.seen(seq).ravel() for seq in range(4)]))
    assert trees.told(x.tree_mask, x.q_lens, x.kv_lens, "tree") is x.tree_mask


def test_there_is_no_mask_of_one_query_token_each():
    assert inputs(replace(TREE, q_lens=())).tree_mask is None
    assert inputs(replace(TREE, tree_mask="none")).tree_mask is None


@pytest.mark.parametrize("static", [False, True])
def test_a_tree_is_drawn_where_it_can_differ_from_a_chain(reference, static):
    """Beside three query tokens at least, whatever the lengths of sequences turn out to be."""
    sizes = []

    @given(cases(cell_of(reference, static=static)))
    @settings(max_examples=200, database=None)
    def draw(case):
        if case.tree_mask != "none":
            sizes.append(max(case.q_lens))

    draw()
    assert sizes
    assert min(sizes) >= 3


def test_no_tree_is_drawn_where_fewer_query_tokens_are_offered(reference):
    assert all(case.tree_mask == "none" for case in schedule(cell_of(reference, q_lens={1, 2})))


def test_drafts_of_one_tree_lie_in_several_splits_in_a_pinned_case(reference):
    (case,) = branches(cell_of(reference))
    assert case in all_laws()[BOUND].pinned(cell_of(reference))
    assert case.num_splits > 2
    assert all(-(-n // case.num_splits) < size for n, size in zip(case.kv_lens, case.q_lens, strict=True))
    assert branches(cell_of(reference, tree_mask={"none"})) == ()
    assert judged(reference, case).features == {"q_lens": 1, "tree_mask": 1}


def test_scores_lie_below_any_finite_number_where_a_window_masks_in_a_pinned_case(reference):
    (case,) = far_below(cell_of(reference))
    assert case in all_laws()[BOUND].pinned(cell_of(reference))
    assert (case.window, case.family, case.sinks, case.soft_cap) == (3, "huge", "none", 0.0)
    assert far_below(cell_of(reference, window={0})) == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mask_of_minus_ten_thousand_leaks_in_a_pinned_case(reference, dtype):
    found = adapter_named("dead_k_is_masked_by_addition")
    subject, law = Subject(found.load(), found.name, str(found.path)), all_laws()["decode_ignores_dead_slots"]
    (case,) = loud_garbage(cell_of(subject, dtype={dtype}))
    law.check(reference, case)
    with pytest.raises(Violation, match="dead slots of K"):
        law.check(subject, case)


TREE_MISTAKES = {
    "tree_mask_is_ignored": "tree_mask_is_ignored",
    "tree_mask_is_transposed": "tree_mask_is_transposed",
    "descendants_are_seen": "tree_mask_is_transposed",
    "older_keys_are_masked_with_the_tree": "tree_mask_hides_what_is_older",
    "columns_count_from_the_first_key": "tree_mask_starts_at_the_first_key",
    "tree_mask_is_that_of_the_first_sequence": "tree_mask_of_another_sequence",
    "rows_of_the_tree_mask_are_looked_for_as_if_padded": "tree_mask_of_another_sequence",
    "nodes_do_not_see_themselves": "tree_mask_hides_the_token_itself",
    "tree_mask_is_a_column_early": "tree_mask_is_a_column_off",
    "tree_mask_is_a_column_late": "tree_mask_is_a_column_off",
}
"""Fault -> the mistake it looks like."""


@pytest.mark.parametrize("fault", TREE_MISTAKES)
def test_a_wrong_reading_of_a_tree_is_named(reference, fault):
    options = Options(EFFORT, layouts=("nhd",), dtypes=("float32",), laws=(BOUND,))
    searcher = Searcher(FaultySubject(reference, FEATURE_FAULTS[fault]), options)
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[BOUND])
    assert cell.looks_like == TREE_MISTAKES[fault]


def _without_cap_behind_the_32nd(reference):
    """A kernel that forgets the soft cap where a second warp of sequences is launched."""
    right = reference.adapter.paged_decode

    def paged_decode(q, *arguments, soft_cap=None, q_lens=None, **options):
        out, lse = right(q, *arguments, soft_cap=soft_cap, q_lens=q_lens, **options)
        kv_lens = arguments[2]
        behind = np.repeat(np.arange(len(kv_lens)), 1 if q_lens is None else q_lens) >= 32
        if soft_cap is not None and behind.any():
            other = right(q, *arguments, q_lens=q_lens, **options)
            for mine, without in zip((out, lse), other, strict=True):
                mine[behind] = without[behind]
        return out, lse

    offer = {"layout": {"nhd"}, "dtype": {"float32"}, "soft_cap": {0.0, 2.0}, "q_lens": {"min": 1}}
    return Subject(SimpleNamespace(OFFERS={"paged_decode": offer}, paged_decode=paged_decode), "some", "some.py")


@pytest.mark.parametrize(("profile", "outcome"), [("quick", CONFORMS), ("default", VIOLATES)])
def test_what_meets_a_feature_in_a_large_batch_alone_is_seen_by_longer_runs(reference, profile, outcome):
    effort = replace(EFFORTS[profile], seconds=3600.0)
    searcher = Searcher(_without_cap_behind_the_32nd(reference), Options(effort, laws=(BOUND,), explains=False))
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[BOUND])
    assert cell.outcome == outcome


@pytest.mark.parametrize(
    ("fault", "needed"),
    [
        ("soft_cap_is_ignored", {"soft_cap"}),
        ("sinks_are_ignored", {"sinks"}),
        ("window_is_ignored", {"window"}),
        ("soft_cap_comes_after_alibi", {"soft_cap", "alibi_slopes"}),
        ("tree_mask_is_ignored", {"q_lens", "tree_mask"}),
    ],
)
def test_a_counterexample_has_no_feature_that_it_does_not_need(reference, fault, needed):
    """Features are drawn as one combination: those that are beside the point would lead astray."""
    options = Options(EFFORTS["quick"], layouts=("nhd",), dtypes=("float32",), laws=(BOUND,))
    searcher = Searcher(FaultySubject(reference, FEATURE_FAULTS[fault]), options)
    searcher.begin(1)
    (cell,) = searcher.run(all_laws()[BOUND])
    case = Case.from_json(cell.counterexample)
    off = {name: row.off for name, row in FEATURES.items()} | {"q_lens": ()}
    assert {name for name in FEATURES if getattr(case, name) != off[name]} == needed


def test_a_kernel_of_the_other_form_of_tree_masks_is_judged_by_its_own_form(reference):
    other = FaultySubject(reference, None)
    other.conventions = {**other.conventions, "tree_mask_form": "all_keys"}
    searcher = Searcher(other, Options(EFFORTS["quick"], ops=("paged_decode",), layouts=("nhd",), dtypes=("float32",)))
    searcher.begin(1)
    outcomes = {cell.outcome for law in all_laws().values() if law.op == "paged_decode" for cell in searcher.run(law)}
    assert outcomes <= {CONFORMS, NOT_OFFERED}


# --- conventions that are declared wrongly, and kept


class Does(FaultySubject):
    """A right kernel of one choice of a convention that declares another."""

    def __init__(self, subject, convention, does, declares):
        super().__init__(subject, None)
        self._does, self._declares = ({**self.conventions, convention: choice} for choice in (does, declares))
        self.conventions = self._declares

    def call(self, case, op, **arguments):
        self.conventions = self._does
        try:
            return super().call(case, op, **arguments)
        finally:
            self.conventions = self._declares


def ran(subject, *names):
    """Every law of attention in one cell, or some: that of the bound in as many cases as show every feature."""
    found = []
    for law in (law for law in all_laws().values() if law.op == "paged_decode" and law.name in (names or all_laws())):
        effort = EFFORT if law.name == BOUND else replace(EFFORT, examples=8)
        searcher = Searcher(subject, Options(effort, ops=("paged_decode",), layouts=("nhd",), dtypes=("float32",)))
        searcher.begin(1)
        found += searcher.run(law)
    return found


TOLD_APART = ("causal", "empty_with_sink")
WRONG_WORDS = [(name, *two) for name in TOLD_APART for two in permutations(CONVENTIONS[name].choices, 2)]


@pytest.mark.parametrize(("convention", "does", "declares"), WRONG_WORDS)
def test_a_kernel_of_another_convention_than_it_declares_is_told_what_to_declare(reference, convention, does, declares):
    (cell,) = ran(Does(reference, convention, does, declares), BOUND)
    assert cell.meant == f'CONVENTIONS["{convention}"] = "{does}"'


@pytest.mark.parametrize(
    ("convention", "choice"), [(name, one) for name in TOLD_APART for one in CONVENTIONS[name].choices]
)
def test_a_kernel_that_keeps_its_word_is_right_by_every_law(reference, convention, choice):
    cells = ran(Does(reference, convention, choice, choice))
    assert {cell.outcome for cell in cells} <= {CONFORMS, NOT_OFFERED}
    (bound,) = (cell for cell in cells if cell.law == BOUND)
    assert {name: bound.features.get(name, 0) > 0 for name in FEATURES} == dict.fromkeys(FEATURES, True)


def test_a_sequence_without_keys_has_the_sink_or_none_and_a_row_that_sees_no_key_has_it(reference):
    x = inputs(replace(PLAIN, sinks="drawn", kv_lens=(0, 1), q_lens=(1, 2)))
    cache = paged.filled(x, "zero")
    told = {}
    for choice in CONVENTIONS["empty_with_sink"].choices:
        reading = DecodeReading.right(x, declared({"empty_with_sink": choice}))
        told[choice] = attended(x, keys.of_all(x, cache, reading), Profile(), reading).lse
        one = Does(reference, "empty_with_sink", choice, choice)
        profile = rounding(one.profile(x.case.dtype), x.case.dtype)
        want = expected(x, cache, profile, reading)["lse"]
        assert not want.unmet(attend(one, x.case, cache)["lse"]).any()
    sink, empty = told["sink"], told["lse_of_empty"]
    np.testing.assert_array_equal(sink[:2], np.broadcast_to(x.sinks, (2, len(x.sinks))))
    assert np.isneginf(empty[0]).all()
    np.testing.assert_array_equal(empty[1:], sink[1:])


# --- what several query tokens see


CAUSAL = CONVENTIONS["causal"].choices


def own_of(case, causal):
    """[[position of each query token] of each sequence] by the definition."""
    reading = DecodeReading.right(inputs(case), declared({"causal": causal}))
    return [[int(reading.lens[0]) - 1 - int(n) for n in reading.newer[reading.seq_of == seq]] for seq in (0, 1)]


ROWS = replace(PLAIN, kv_lens=(9, 9), q_lens=(3, 2))


def test_query_tokens_stand_at_the_last_keys_or_the_first_ones_but_those_of_a_tree_at_the_last():
    last, first = [[6, 7, 8], [7, 8]], [[0, 1, 2], [0, 1]]
    assert {choice: own_of(ROWS, choice) for choice in CAUSAL} == {
        "bottom_right": last,
        "top_left": first,
        "none": last,
    }
    assert own_of(replace(ROWS, tree_mask="drawn"), "top_left") == last
    assert own_of(replace(ROWS, q_lens=()), "top_left") == [[8], [8]]


@pytest.mark.parametrize("window", [0, 3])
def test_what_is_seen_is_a_triangle_at_either_corner_or_all(window):
    key = np.arange(9)
    for choice in CAUSAL:
        own = np.array(own_of(ROWS, choice)[0])[:, None]
        seen = DecodeReading.right(inputs(replace(ROWS, window=window)), declared({"causal": choice})).seen(0)
        old = (key > own - window) | (window == 0)
        np.testing.assert_array_equal(seen, old & ((key <= own) | (choice == "none")), choice)


def test_of_query_tokens_at_the_first_keys_nothing_is_evicted(reference):
    """Whatever is drawn or pinned; of one query token and of a tree's, older keys than the window are as ever."""
    cell = replace(cell_of(reference), conventions=reference.conventions | {"causal": "top_left"})
    several = [case for case in schedule(cell) if case.window and case.q_lens and case.tree_mask == "none"]
    assert several
    assert not any(cell.evicts(vars(case)) for case in several)
    assert all(cell_of(reference).evicts(vars(case)) for case in several)
    assert cell.evicts({"window": 3})
    assert cell.evicts({"window": 3, "q_lens": (3, 3), "tree_mask": "drawn"})
    assert evicted(cell)
    assert evicted_pages(cell)
    asked = []

    @given(cases(cell, only={"poison": ("all", "evicted")}))
    @settings(max_examples=300, database=None)
    def draw(case):
        if case.window and (case.poison == "evicted" or case.evicted_pages != "kept"):
            asked.append(case)

    draw()
    assert asked
    assert all(cell.evicts(vars(case)) for case in (*asked, *evicted(cell), *evicted_pages(cell)))


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
