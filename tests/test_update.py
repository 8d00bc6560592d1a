"""Inputs of append_decode: mixtures of prefill, chunks and decode, their slots, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from kvconform.harness.adapters import find
from kvconform.harness.booking import CONFORMS
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import Options
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.oracles import paged, update
from kvconform.specs import variations
from kvconform.specs.case import Case, CaseError
from kvconform.specs.cells import cells
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import mixtures
from kvconform.specs.strategies import cases

CASE = Case(
    op="append_decode",
    layout="nhd",
    dtype="float32",
    page_size=2,
    kv_lens=(5, 7, 4),
    q_lens=(5, 3, 1),
    num_kv_heads=2,
    group=2,
    head_dim=3,
)
PARTS = ("a_shared_prefix_and_suffixes_merge_to_the_whole", "pages_dealt_out_to_ranks_merge_to_the_whole")


@pytest.fixture(scope="module")
def reference():
    found = find("numpy_ref")
    return Subject(found.load(), found.name, str(found.path))


def cell_of(subject, **offer):
    offered = subject.offers["append_decode"] | {"layout": {"nhd"}, "dtype": {"float32"}} | offer
    return cells("append_decode", offered, subject.conventions)[0]


def drawn(cell, count=300):
    seen = []

    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], derandomize=True)
    @given(cases(cell))
    def look(case):
        seen.append(case)

    look()
    return seen


def kinds(case):
    """Which of prefill, chunk and decode a Case has."""
    pairs = zip(case.kv_lens, case.q_lens or (1,) * len(case.kv_lens), strict=True)
    return {("decode", "prefill", "chunk")[0 if q_len == 1 else 1 if q_len == n else 2] for n, q_len in pairs}


def test_new_tokens_are_the_newest_of_each_sequence_one_of_each_query_row():
    x = inputs(CASE)
    seq, position = (owner[x.newest] for owner in x.owners)
    assert seq.tolist() == x.q_rows[0].tolist() == [0] * 5 + [1] * 3 + [2]
    assert position.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 3]
    assert np.array_equal(x.new_k, x.k[x.newest])
    assert np.array_equal(x.new_v, x.v[x.newest])


def test_pages_that_sequences_share_are_full_before_the_call():
    case = replace(CASE, kv_lens=(6, 7, 4), q_lens=(1, 3, 1), shared_pages=2)
    assert inputs(case).num_shared == [2, 2, 1]
    assert inputs(replace(case, op="paged_decode")).num_shared == [2, 2, 2]


def test_slots_of_new_tokens_hold_what_is_dead_before_the_call_and_the_tokens_after_it():
    x = inputs(replace(CASE, dead="nan", poison="tails"))
    before = update.before(x, "nan")
    right = paged.Reading.of(x)
    old = np.setdiff1d(np.arange(x.num_tokens), x.newest)
    for rows, was in zip((x.k, x.v), paged.gathered(x, before, right), strict=True):
        assert np.isnan(was[x.newest]).all()
        assert np.array_equal(was[old], rows[old])
    updated = update.after(x, before)
    for rows, now in zip((x.k, x.v), paged.gathered(x, updated, right), strict=True):
        assert np.array_equal(now, rows)
    slots = right.slots[0][x.newest]
    changed = [np.argwhere(updated[name] != before[name])[:, :2] for name in before if name in ("k", "v")]
    assert all({p * 2 + s for p, s in places.tolist()} <= {*slots.tolist()} | _nan_slots(before) for places in changed)


def _nan_slots(cache):
    return {int(p * 2 + s) for p, s, *_ in np.argwhere(np.isnan(cache["k"]))}


def test_prefill_chunks_and_decode_are_drawn_and_mixed(reference):
    found = [kinds(case) for case in drawn(cell_of(reference))]
    assert set().union(*found) == {"prefill", "chunk", "decode"}
    assert {"prefill", "decode"} in found
    assert {"prefill", "chunk", "decode"} in found


def test_every_sequence_has_a_key_for_each_of_its_new_tokens(reference):
    for case in drawn(cell_of(reference)):
        assert all(0 <= q_len <= n for n, q_len in zip(case.kv_lens, case.q_lens or case.kv_lens, strict=True))
        assert min(case.kv_lens) >= 1


@pytest.mark.parametrize("ragged", [False, True])
def test_compiled_shapes_have_one_number_of_new_tokens_unless_any_is_offered(reference, ragged):
    lens = [set(case.q_lens) for case in drawn(cell_of(reference, static=True, ragged=ragged))]
    assert any(len(some) > 1 for some in lens) == ragged


def test_the_pinned_mixture_has_everything(reference):
    (case,) = mixtures(cell_of(reference))
    assert kinds(case) == {"prefill", "chunk", "decode"}
    size = case.page_size
    firsts = [n - q_len for n, q_len in zip(case.kv_lens, case.q_lens, strict=True)]
    crossings = [a // size < (n - 1) // size for a, n in zip(firsts, case.kv_lens, strict=True)]
    assert any(crossings), "new tokens cross into another page"
    assert any(a % size == 0 and q_len == 1 for a, q_len in zip(firsts, case.q_lens, strict=True))
    for static in ({}, {"ragged": True}):
        assert mixtures(cell_of(reference, static=True, **static))


def test_more_new_tokens_than_keys_are_refused():
    text = replace(CASE, kv_lens=(5, 2, 4)).to_json()
    with pytest.raises(CaseError, match="new tokens"):
        Case.from_json(text)


@pytest.mark.parametrize("law", PARTS)
def test_attention_in_parts_has_evidence(reference, law):
    options = Options(EFFORTS["quick"], layouts=("nhd",), laws=(law,))
    searcher = Searcher(reference, options)
    searcher.begin(1)
    cells_of_law = [cell for cell in searcher.run(all_laws()[law]) if cell.outcome == CONFORMS]
    assert cells_of_law
    assert all(cell.examples >= options.effort.examples for cell in cells_of_law)


@pytest.mark.parametrize(
    ("op", "changes", "idle"),
    [
        ("append_decode", {"poison": "gaps"}, True),
        ("append_decode", {"poison": "gaps", "strides": "all"}, False),
        ("append_decode", {"poison": "tails"}, False),  # the slots of the newest tokens are dead before
        ("paged_decode", {"poison": "gaps"}, True),
        ("paged_decode", {"poison": "gaps", "strides": "all"}, False),
        ("paged_decode", {"poison": "free"}, True),
        ("paged_decode", {"poison": "free", "spare_pages": 1}, False),
    ],
)
def test_a_case_in_which_nothing_dead_is_changed_is_no_evidence(reference, op, changes, idle):
    law = {"append_decode": "update_ignores_dead_slots", "paged_decode": "decode_ignores_dead_slots"}[op]
    reference.begin()
    all_laws()[law].check(reference, Case(op=op, layout="nhd", dtype="float32", kv_lens=(3,), dead="nan", **changes))
    assert reference.idle == idle


def test_shorter_sequences_lie_in_the_pages_of_the_longer_ones():
    x = inputs(replace(CASE, op="paged_decode", q_lens=(), spare_pages=2, seed=3))
    short = variations.with_lens(x, np.array([1, 7, 2]))
    for seq, n in enumerate(short.case.kv_lens):
        of_long, of_short = (one.slots[0][one.owners[0] == seq][:n] for one in (x, short))
        assert of_short.tolist() == of_long.tolist()
