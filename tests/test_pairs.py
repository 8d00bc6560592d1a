"""Laws of pairs that cannot be bitwise: held to both bounds, which tell rounding from a fault."""

import re
from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from kvconform.harness.booking import CONFORMS, NOT_OFFERED, VIOLATES
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import Options, left_out, planned
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.specs.case import Case
from kvconform.specs.inputs import inputs
from kvconform.suites.calls import require_attention
from kvconform.tests.right import sums_codes_in_any_order

OP = "paged_decode"
NEIGHBOURS = "decode_does_not_see_its_neighbours"
BATCH, HEADS = "decode_does_not_depend_on_its_batch", "decode_turns_with_its_heads"
UNDECLARED = numpy_ref.CONVENTIONS | {"invariances": set()}


def outcomes(law, attend, conventions=UNDECLARED, families=None, op=OP):
    """Of each cell what a law says of numpy_ref with another paged_decode, or append_decode."""
    offers = {op: numpy_ref.OFFERS[op] | {"layout": {"nhd"}, "dtype": {"float32"}, "into": set()}}
    told = {"OFFERS": offers, "CONVENTIONS": conventions, "attest": numpy_ref.attest}
    adapter = SimpleNamespace(**told, ARITHMETIC=numpy_ref.ARITHMETIC, **{op: attend})
    searcher = Searcher(Subject(adapter, "other", "other.py"), Options(EFFORTS["quick"]))
    searcher.begin(1)
    return {cell.outcome for cell in searcher.run(replace(all_laws()[law], families=families))}


def nothing(q, *args, **kwargs):
    return np.zeros_like(q), np.zeros(q.shape[:2], np.float32)


def next_float(array):
    """Another rounding of the same numbers."""
    return np.where(array == 0, array, np.nextafter(array, np.float32(np.inf)))


def alone_rounded_otherwise(q, cache, block_table, kv_lens, **kwargs):
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **kwargs)
    return (next_float(out), lse) if len(kv_lens) == 1 else (out, lse)


def alone_without_the_newest_key(q, cache, block_table, kv_lens, **kwargs):
    lens = np.maximum(kv_lens - 1, 1) if len(kv_lens) == 1 else kv_lens
    return numpy_ref.paged_decode(q, cache, block_table, np.minimum(lens, kv_lens), **kwargs)


def last_head_rounded_otherwise(q, *args, **kwargs):
    out, lse = numpy_ref.paged_decode(q, *args, **kwargs)
    out[:, -1] = next_float(out[:, -1])
    return out, lse


def last_head_of_a_doubled_scale(q, *args, **kwargs):
    scaled = q.copy()
    scaled[:, -1] *= 2
    return numpy_ref.paged_decode(scaled, *args, **kwargs)


@pytest.mark.parametrize(
    ("law", "right", "wrong"),
    [
        (BATCH, alone_rounded_otherwise, alone_without_the_newest_key),
        (HEADS, last_head_rounded_otherwise, last_head_of_a_doubled_scale),
    ],
)
def test_an_invariance_that_is_not_declared_is_held_to_both_bounds(law, right, wrong):
    assert outcomes(law, right) == {CONFORMS}
    assert outcomes(law, right, numpy_ref.CONVENTIONS) == {VIOLATES}
    assert outcomes(law, wrong) == {VIOLATES}


PAIRS = (
    "decode_ignores_dead_slots",
    "decode_does_not_see_page_numbers",
    NEIGHBOURS,
    "decode_scales_exactly_with_v",
    "decode_takes_a_factor_of_two_from_k_to_q",
    "decode_forgets_the_calls_before",
    "decode_follows_one_changed_argument",
)
VARYING = UNDECLARED | {"deterministic": False}


class RoundsOtherwiseNowAndThen:
    """About every other call has other bits."""

    def __init__(self):
        self.dice = np.random.default_rng(0)

    def __call__(self, *args, **kwargs):
        out, lse = numpy_ref.paged_decode(*args, **kwargs)
        return (next_float(out), lse) if self.dice.random() < 0.5 else (out, lse)


@pytest.mark.parametrize("law", PAIRS)
def test_a_kernel_whose_bits_vary_and_that_says_so_is_held_to_both_bounds(law):
    assert outcomes(law, RoundsOtherwiseNowAndThen(), VARYING) == {CONFORMS}
    assert outcomes(law, RoundsOtherwiseNowAndThen()) == {VIOLATES}


def dead_keys_are_masked_by_adding(q, cache, block_table, kv_lens, **kwargs):
    """Dead slots of V are multiplied by a zero: NaN there is everywhere."""
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **kwargs)
    return out + np.float32(0) * sum(part.sum(dtype=np.float32) for part in cache.values()), lse


def first_page_is_page_0_of_the_pool(q, cache, block_table, kv_lens, **kwargs):
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **kwargs)
    return out + (block_table[:, :1, None] == 0) * np.float32(0.5), lse


def a_mean_of_the_whole_cache_leaks(q, cache, block_table, kv_lens, **kwargs):
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **kwargs)
    return out + np.float32(0.5) * cache["v"].mean(dtype=np.float32), lse


def v_is_clipped_at_one(q, cache, *args, **kwargs):
    return numpy_ref.paged_decode(q, cache | {"v": np.minimum(cache["v"], 1)}, *args, **kwargs)


def q_is_clipped_at_one(q, *args, **kwargs):
    return numpy_ref.paged_decode(np.clip(q, -1, 1), *args, **kwargs)


class DriftsFromCallToCall:
    """Adds a little more in each call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *args, **kwargs):
        out, lse = numpy_ref.paged_decode(*args, **kwargs)
        self.calls += 1
        return out + np.float32(self.calls) / 64, lse


class KeepsWhatItWasCapturedWith:
    """A graph captured for the same tensors, which keeps its scale, window and sinks."""

    def __init__(self):
        self.kept = {}

    def __call__(self, q, cache, block_table, kv_lens, **kwargs):
        some = ("sm_scale", "window", "soft_cap", "sinks", "alibi_slopes", "num_splits")
        key = (q.tobytes(), block_table.tobytes(), kv_lens.tobytes())
        told = self.kept.setdefault(key, {name: kwargs[name] for name in some if name in kwargs})
        return numpy_ref.paged_decode(q, cache, block_table, kv_lens, **kwargs | told)


WRONG = dict(
    zip(
        PAIRS,
        (
            lambda: dead_keys_are_masked_by_adding,
            lambda: first_page_is_page_0_of_the_pool,
            lambda: a_mean_of_the_whole_cache_leaks,
            lambda: v_is_clipped_at_one,
            lambda: q_is_clipped_at_one,
            DriftsFromCallToCall,
            KeepsWhatItWasCapturedWith,
        ),
        strict=True,
    )
)


@pytest.mark.parametrize("law", PAIRS)
def test_a_kernel_whose_bits_vary_is_no_less_wrong_for_it(law):
    assert VIOLATES in outcomes(law, WRONG[law](), VARYING)


class UpdatesInOtherBitsNowAndThen:
    """append_decode of which about every other call has other bits; `leak` of all V in the cache gets into out."""

    def __init__(self, leak):
        self.dice, self.leak = np.random.default_rng(0), np.float32(leak)

    def __call__(self, *args, **kwargs):
        out, lse, cache = numpy_ref.append_decode(*args, **kwargs)
        out = out + self.leak * cache["v"].mean(dtype=np.float32) if self.leak else out
        return (next_float(out) if self.dice.random() < 0.5 else out), lse, cache


@pytest.mark.parametrize(("leak", "outcome"), [(0, CONFORMS), (0.5, VIOLATES)])
def test_an_update_whose_bits_vary_and_that_says_so_is_held_to_both_bounds(leak, outcome):
    update = UpdatesInOtherBitsNowAndThen(leak)
    assert outcomes("update_does_not_see_its_neighbours", update, VARYING, op="append_decode") == {outcome}


def update_under_masks_of_all_keys(q, k, v, cache, block_table, kv_lens, *, q_lens=None, tree_mask=None, **options):
    """numpy_ref's append_decode, told masks in the other form: of each sequence its rows over all of its keys, flat."""
    if tree_mask is not None:
        ends = np.cumsum(q_lens * kv_lens)
        if len(tree_mask) != ends[-1]:
            raise ValueError(f"tree_mask has {len(tree_mask)} elements, not {ends[-1]}")
        wide = np.zeros((len(q), int(max(q_lens))), bool)
        for end, rows, keys, last in zip(ends, q_lens, kv_lens, np.cumsum(q_lens), strict=True):
            wide[last - rows : last, :rows] = tree_mask[end - rows * keys : end].reshape(rows, keys)[:, keys - rows :]
        tree_mask = wide
    told = {"q_lens": q_lens, "tree_mask": tree_mask, **options}
    return numpy_ref.append_decode(q, k, v, cache, block_table, kv_lens, **told)


@pytest.mark.parametrize("law", [law.name for law in all_laws().values() if law.op == "append_decode"])
def test_every_call_of_a_law_of_updates_has_a_mask_that_fits_its_lengths(law):
    offer = {
        "layout": {"nhd"},
        "dtype": {"float32"},
        "q_lens": {1, 2, 3},
        "tree_mask": {"none", "drawn"},
        "into": {"out"},
    }
    conventions = numpy_ref.CONVENTIONS | {"tree_mask_form": "all_keys"}
    told = {"OFFERS": {"append_decode": offer}, "CONVENTIONS": conventions, "ARITHMETIC": numpy_ref.ARITHMETIC}
    adapter = SimpleNamespace(**told, attest=numpy_ref.attest, append_decode=update_under_masks_of_all_keys)
    searcher = Searcher(Subject(adapter, "other", "other.py"), Options(EFFORTS["quick"]))
    searcher.begin(1)
    cells = searcher.run(all_laws()[law])
    assert {cell.outcome for cell in cells} <= {CONFORMS}
    assert all(cell.features.get("tree_mask") for cell in cells if law == "update_attends_to_what_it_has_written")


@pytest.mark.parametrize(("decode", "outcome"), [(numpy_ref.paged_decode, CONFORMS), (None, VIOLATES)])
def test_a_kernel_that_takes_nothing_but_zeros_where_nothing_lives_is_held_to_what_its_neighbours_hold(decode, outcome):
    zeros = UNDECLARED | {"dead": {"zero"}}
    assert outcomes(NEIGHBOURS, decode or a_mean_of_the_whole_cache_leaks, zeros) == {outcome}


def codes_in_either_order(change=lambda out, q, cache, page_ids: out):
    """A right kernel of codes whose bits vary and that says so, or one with its out changed."""

    def attend(q, cache, k_codebooks, v_codebooks, page_ids, *rest, **options):
        out, lse = sums_codes_in_any_order.pq_decode_attention(
            q, cache, k_codebooks, v_codebooks, page_ids, *rest, **options
        )
        return change(out, q, cache, page_ids).astype(out.dtype), lse

    return attend


@pytest.mark.parametrize(
    ("law", "change"),
    {
        "pq_attention_ignores_what_is_dead": lambda out, q, cache, page_ids: out + cache["v"].mean() / 256,
        "pq_attention_does_not_see_page_numbers": lambda out, q, cache, page_ids: out + (page_ids.flat[0] == 0) / 2,
        "pq_attention_turns_with_the_sign_of_v": lambda out, q, cache, page_ids: np.maximum(out, 0),
        "pq_attention_does_not_see_its_neighbours": lambda out, q, cache, page_ids: out + cache["v"].mean() / 256,
    }.items(),
)
def test_a_kernel_of_codes_whose_bits_vary_is_held_to_both_bounds(law, change):
    told = {name: getattr(sums_codes_in_any_order, name) for name in ("OFFERS", "CONVENTIONS", "ARITHMETIC")}
    assert not told["CONVENTIONS"]["deterministic"]
    for attend, outcome in ((codes_in_either_order(), CONFORMS), (codes_in_either_order(change), VIOLATES)):
        adapter = SimpleNamespace(**told, attest=numpy_ref.attest, pq_decode_attention=attend)
        searcher = Searcher(Subject(adapter, "other", "other.py"), Options(EFFORTS["quick"]))
        searcher.begin(1)
        assert {cell.outcome for cell in searcher.run(all_laws()[law])} == {outcome}


@pytest.mark.parametrize("law", ["decode_repeats_bit_for_bit", "decode_agrees_with_repeated_kv"])
def test_zeros_in_both_calls_of_a_pair_are_no_evidence(law):
    assert outcomes(law, nothing, families=("plain",)) == {NOT_OFFERED}
    assert outcomes(law, numpy_ref.paged_decode) == {CONFORMS}


@pytest.mark.parametrize(("out", "lse", "shows"), [(0, -np.inf, False), (0, 1, True), (np.nan, -np.inf, True)])
def test_a_batch_without_keys_is_no_evidence_in_a_pair(out, lse, shows):
    seen = []
    subject = SimpleNamespace(saw_nothing=lambda: seen.append("nothing"))
    case = Case(op=OP, layout="nhd", dtype="bfloat16", kv_lens=(0,))
    made = {"out": np.full((1, 1, 1), out, ml_dtypes.bfloat16), "lse": np.full((1, 1), lse, np.float32)}
    require_attention(subject, inputs(case), made, made, "of one call against another")
    assert bool(seen) != shows


# --- where shapes are compiled


class RightInItsFirstShape:
    """A kernel that was tuned for the first call it saw, and is off by a half wherever something is otherwise."""

    def __init__(self, told):
        self.told, self.first = told, None

    def __call__(self, q, cache, block_table, kv_lens, **options):
        out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **options)
        now = self.told(q, cache, kv_lens, options)
        self.first = now if self.first is None else self.first
        return (out if now == self.first else out + np.float32(0.5)), lse


FURTHER = {
    BATCH: lambda q, cache, kv_lens, options: len(kv_lens),
    "decode_does_not_depend_on_its_splits": lambda q, cache, kv_lens, options: options["num_splits"],
    "decode_agrees_with_repeated_kv": lambda q, cache, kv_lens, options: cache["k"].shape[-3:-1],
    "decode_agrees_across_page_sizes": lambda q, cache, kv_lens, options: cache["k"].shape,
    "decode_agrees_across_layouts": lambda q, cache, kv_lens, options: options["layout"],
    "decode_agrees_across_strides": lambda q, cache, kv_lens, options: q.strides,
}
"""Law -> what a kernel is told that is otherwise in one of two calls."""


def static_subject(attend):
    """An implementation whose shapes are compiled, of two layouts, that declares no invariance."""
    offer = {name: numpy_ref.OFFERS[OP][name] for name in ("num_splits", "strides") if name in numpy_ref.OFFERS[OP]}
    offers = {OP: {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "static": True, **offer}}
    told = {"OFFERS": offers, "CONVENTIONS": UNDECLARED, "ARITHMETIC": numpy_ref.ARITHMETIC}
    return Subject(SimpleNamespace(**told, attest=numpy_ref.attest, paged_decode=attend), "other", "other.py")


@pytest.mark.parametrize("law", FURTHER)
def test_a_law_that_takes_further_shapes_is_left_to_longer_runs_where_each_is_compiled(law):
    subject, check = static_subject(numpy_ref.paged_decode), all_laws()[law]
    assert planned(subject, check, Options(EFFORTS["quick"])) == []
    said = {row.message for row in left_out(subject, check, Options(EFFORTS["quick"]))}
    assert said == {"left to default and thorough: its cases take shapes of their own, and each shape is compiled"}
    wrong = static_subject(RightInItsFirstShape(FURTHER[law]))
    for one, outcome in ((subject, CONFORMS), (wrong, VIOLATES)):
        searcher = Searcher(one, Options(EFFORTS["default"]))
        searcher.begin(1)
        assert outcome in {cell.outcome for cell in searcher.run(check)} <= {outcome, CONFORMS}


def test_a_case_of_a_law_that_is_left_to_longer_runs_is_replayed_by_a_short_one():
    subject, check = static_subject(numpy_ref.paged_decode), all_laws()[BATCH]
    case = Case(op=OP, layout="nhd", dtype="float32", kv_lens=(2, 1), page_size=2)
    searcher = Searcher(subject, Options(EFFORTS["quick"], case=case))
    searcher.begin(1)
    assert [(cell.outcome, cell.examples) for cell in searcher.run(check)] == [(CONFORMS, 1)]


def test_pages_of_another_size_hold_as_many_tokens_where_their_number_is_compiled_in():
    subject, check = static_subject(numpy_ref.paged_decode), all_laws()["decode_agrees_across_page_sizes"]
    case = Case(op=OP, layout="nhd", dtype="float32", kv_lens=(8,), page_size=4, capacity=2)
    searcher = Searcher(subject, Options(EFFORTS["quick"], case=case))
    searcher.begin(1)
    assert [(cell.outcome, cell.examples) for cell in searcher.run(check)] == [(CONFORMS, 1)]


def test_of_two_layouts_that_disagree_it_is_told_which_is_wrong():
    """The law compares two layouts, and is red in both: the message does not accuse the right one."""

    def without_the_newest_key_in_hnd(q, cache, block_table, kv_lens, **kwargs):
        lens = kv_lens - (kv_lens > 1) if cache["k"].shape[2] == 4 else kv_lens
        return numpy_ref.paged_decode(q, cache, block_table, lens, **kwargs)

    offers = {OP: {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "page_size": {4}, "num_kv_heads": {2}}}
    told = {"OFFERS": offers, "CONVENTIONS": UNDECLARED, "ARITHMETIC": numpy_ref.ARITHMETIC}
    adapter = SimpleNamespace(**told, **{OP: without_the_newest_key_in_hnd})
    searcher = Searcher(Subject(adapter, "other", "other.py"), Options(EFFORTS["quick"]))
    searcher.begin(1)
    said = {cell.layout: cell.message for cell in searcher.run(all_laws()["decode_agrees_across_layouts"])}
    assert re.match(
        r"out in hnd against without: .* apart than both bounds .*; the former is outside its own", said["nhd"]
    )
    assert re.match(
        r"out in nhd against without: .* apart than both bounds .*; the latter is outside its own", said["hnd"]
    )
