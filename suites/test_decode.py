"""Paged decode attention: the definition within the derived bound, and what must not matter does not."""

from dataclasses import replace
from functools import partial

import numpy as np

from kvconform.oracles import decode, mistakes, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.oracles.verdict import require, require_same
from kvconform.specs.data import FLAT
from kvconform.specs.inputs import inputs
from kvconform.specs.strategies import equal_scores
from kvconform.suites.calls import attending
from kvconform.suites.law import law


def _attend(subject, case, cache, **changed):
    return subject.call(case, "paged_decode", **(attending(inputs(case), cache) | changed))


def _same(got, want, what):
    for name in want:
        require_same(got[name], want[name], f"{name} {what}", decode.LOCATE[name])


def _explanations(subject, x, cache, profile, right):
    """The named mistakes, and an exponential that errs at 0: measured on the same Case where all keys score 0."""

    def errs_at_0():
        flat = inputs(replace(x.case, family=FLAT, num_splits=1))
        level = paged.filled(flat, "zero")
        exact = decode.rounding(subject.profile(x.case.dtype), x.case.dtype)
        want = decode.required(flat, level, exact, DecodeReading.right(flat, subject.conventions["lse_base"]))
        error = decode.error_of_exp_at_0(_attend(subject, flat.case, level), want, right.lse_unit)
        return decode.expected(x, cache, replace(profile, exp_error=profile.exp_error + error), right) if error else {}

    return {**mistakes.of_decode(x, cache, profile, right), "exp_of_0_is_not_1/0": errs_at_0}


@law("paged_decode", pinned=equal_scores)
def test_decode_is_within_the_bound(subject, case):
    """out and lse lie where a correct kernel of the declared arithmetic can land."""
    x = inputs(case)
    cache = paged.filled(x, case.dead)
    got = _attend(subject, case, cache)
    profile = decode.rounding(subject.profile(case.dtype), case.dtype, splits=case.num_splits)
    right = DecodeReading.right(x, subject.conventions["lse_base"])
    want = decode.required(x, cache, profile, right)
    require(got, {name: want[name] for name in got}, partial(_explanations, subject, x, cache, profile, right))
    subject.saw(decode.visible_weight(x, cache, want, right))


@law("paged_decode", only={"dead": ("finite", "nan")}, wants=lambda conventions: set(conventions["dead"]) - {"zero"})
def test_decode_ignores_dead_slots(subject, case):
    """What lies in slots that no sequence reads changes no bit of the result."""
    x = inputs(case)
    clean = _attend(subject, case, paged.filled(x, "zero"))
    for side, poisoned in (("K", (case.dead, "zero")), ("V", ("zero", case.dead))):
        got = _attend(subject, case, paged.filled(x, *poisoned))
        _same(got, clean, f"with {case.dead} contents in dead slots of {side} against zeros there")


@law(
    "paged_decode",
    only={"dead": ("zero",), "spare_pages": (1, 3)},  # a spare page is one more wrong one to read
    rows=lambda row: not row.contiguous,
)
def test_decode_does_not_see_page_numbers(subject, case):
    """Giving every page another number, in cache and block table alike, changes no bit of the result."""
    x = inputs(case)
    renamed = x.with_pages_renamed()
    before = _attend(subject, case, paged.filled(x, "zero"))
    after = _attend(subject, case, paged.filled(renamed, "zero"), block_table=renamed.block_table)
    _same(after, before, "with pages renumbered against before")


@law("paged_decode", wants=lambda conventions: conventions["deterministic"])
def test_decode_repeats_bit_for_bit(subject, case):
    """The same call gives the same bits."""
    cache = paged.filled(inputs(case), case.dead)
    first = _attend(subject, case, cache)
    _same(_attend(subject, case, cache), first, "of the second call against the first")


@law(
    "paged_decode",
    needs=("paged_decode:lse", "merge_states"),
    wants=lambda conventions: conventions["empty_rows"] == "zero",
)
def test_attention_over_parts_merges_to_the_whole(subject, case):
    """Decoding any partition of the keys, empty parts included, and merging gives attention over all of them."""
    x = inputs(case)
    num_parts = 2 if case.capacity else 3  # of a static shape, fewer: each part is one more sequence to interpret
    parts = x.in_parts(num_parts)
    cache = paged.filled(parts, case.dead)
    got = subject.call(parts.case, "paged_decode", **attending(parts, cache))
    stacked = {n: np.ascontiguousarray(a.reshape(-1, num_parts, *a.shape[1:]).swapaxes(0, 1)) for n, a in got.items()}
    merged = subject.call(case, "merge_states", outs=stacked["out"], lses=stacked["lse"])
    profile = decode.twice_merged(subject.profile(case.dtype), case.dtype, case.num_splits, num_parts)
    whole = paged.filled(x, case.dead)
    want = decode.expected(x, whole, profile, DecodeReading.right(x, subject.conventions["lse_base"]))
    require(merged, want, when=f"of {num_parts} merged parts")
