"""Paged decode attention: the definition within the derived bound, and what must not matter does not."""

from dataclasses import replace

import numpy as np

from kvconform.oracles import decode, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.oracles.verdict import require
from kvconform.specs.features import alone
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import (
    branches,
    equal_scores,
    evicted,
    evicted_pages,
    far_below,
    large,
    loud_garbage,
    many_rows,
    schedule,
    sizes_beside,
    table_forms,
    two_prefixes,
    waiting,
    wide_windows,
)
from kvconform.suites.calls import (
    WHERE_OTHERS_LAY,
    attend,
    attention,
    cached,
    may_be_nan,
    require_attention,
    require_decoded,
    require_repeated,
)
from kvconform.suites.law import law


def _pinned(cell):
    features = (*schedule(cell), *branches(cell), *far_below(cell), *waiting(cell))
    return (*equal_scores(cell), *features, *_of_evicted(cell), *_of_tables(cell), *_of_sizes(cell))


def _of_tables(cell):
    return (*table_forms(cell), *two_prefixes(cell))


def _of_sizes(cell):
    return (*large(cell), *many_rows(cell), *wide_windows(cell), *sizes_beside(cell))


def of_many(cell):
    """Cases of many blocks: what ends in another order by chance does so there."""
    return tuple(case for case in large(cell) if case.num_splits > 1 or len(case.kv_lens) > 2)


def _of_evicted(cell):
    return (*evicted(cell), *evicted_pages(cell))


def _of_dead(cell):
    return (*_of_evicted(cell), *loud_garbage(cell))


@law("paged_decode", pinned=_pinned, every_cell=True)
def test_decode_is_within_the_bound(subject, case):
    """out and lse lie where a correct kernel of the declared arithmetic can land."""
    require_decoded(subject, case)


@law(
    "paged_decode",
    only={"dead": ("finite", "nan", "inf")},
    pinned=_of_dead,
    wants=lambda conventions: set(conventions["dead"]) - {"zero"},
    telling=may_be_nan,
)
def test_decode_ignores_dead_slots(subject, case):
    """What lies in slots that no sequence reads changes no bit of the result."""
    ignores_dead_slots(subject, case)


def ignores_dead_slots(subject, case):
    """Raise Violation unless what lies in dead slots of K, of V, and between elements changes no bit."""
    x = inputs(case)
    slots, where = replace(case, dead="zero"), "" if case.poison == "all" else f" ({case.poison})"
    clean = attention(subject, x, cached(x, "zero"), case=slots)
    poisoned = [] if case.poison == "gaps" else [(slots, "K", (case.dead, "zero")), (slots, "V", ("zero", case.dead))]
    tries = [(one, f"dead slots of {side}{where} against zeros", contents) for one, side, contents in poisoned]
    if case.gaps and case.strides != "contiguous":
        tries.append((case, "the gaps between elements of a strided cache against numbers", ("zero", "zero")))
    if not tries or not (x.is_poisoned or case.operation.appends):  # an append's own slots are dead before it
        subject.saw_nothing()
    for one, of, contents in tries:
        got = attention(subject, x, cached(x, *contents), case=one)
        require_repeated(subject, x, got, clean, f"with {case.dead} contents in {of} there")


@law(
    "paged_decode",
    only={"dead": ("zero",), "spare_pages": (1, 3)},  # a spare page is one more wrong one to read
    rows=lambda row: not row.contiguous,
)
def test_decode_does_not_see_page_numbers(subject, case):
    """Giving every page another number, in cache and block table alike, changes no bit of the result.

    Once in other memory, and once written over the arguments of the call before, as where buffers stay where they are.
    """
    does_not_see_page_numbers(subject, case)


def does_not_see_page_numbers(subject, case):
    """Raise Violation unless other page numbers change no bit, of later pages alone and then of all."""
    x = inputs(case)
    before = attention(subject, x, cached(x, "zero"))
    later, every = (x.with_pages_renamed(first) for first in (False, True))
    moved = any((new != old).any() for new, old in zip(later.tables, x.tables, strict=True))
    with subject.overwriting() as overwrote:
        if moved:
            got = attention(subject, later, cached(later, "zero"))
            require_repeated(subject, x, got, before, "with later pages renumbered against before")
        got = attention(subject, every, cached(every, "zero"))
        where = WHERE_OTHERS_LAY if overwrote() else ""
        require_repeated(subject, x, got, before, f"with pages renumbered{where} against before")


@law("paged_decode", pinned=of_many, wants=lambda conventions: conventions["deterministic"])
def test_decode_repeats_bit_for_bit(subject, case):
    """The same call gives the same bits."""
    x = inputs(case)
    cache = paged.filled(x, case.dead)
    first = attend(subject, case, cache)
    require_attention(subject, x, attend(subject, case, cache), first, "of the second call against the first")


def parts_of(static):
    """Parts that a sequence is cut into; of a static shape fewer: each is one more sequence to interpret."""
    return 2 if static else 3


def takes_parts(cell):
    """Whether so many parts are merged there, of however many sequences, and of a sequence any part may be attended."""
    shorter = [cell.takes(kv_lens=(n,)) for n in range(LONGEST_PART)] if cell.predicates("kv_lens") else []
    shorter_too = shorter == sorted(shorter, reverse=True)
    return shorter_too and cell.takes(num_parts=(parts_of(cell.static),)) and not cell.predicates("num_seqs")


LONGEST_PART = 512
"""Length up to which an offer is asked whether it has gaps."""


@law(
    "paged_decode",
    needs=("paged_decode:lse", "merge_states"),
    only=alone("soft_cap") | {"kv_scales": ("none", "tensor", "head")},
    wants=lambda conventions: conventions["empty_rows"] == "zero",
    rows=lambda row: not row.shares_slots,
    cells=takes_parts,
)
def test_attention_over_parts_merges_to_the_whole(subject, case):
    """Decoding any partition of the keys, empty parts included, and merging gives attention over all of them."""
    x = inputs(case)
    num_parts = parts_of(static=bool(case.capacity))
    parts = x.in_parts(num_parts)
    cache = paged.filled(parts, case.dead)
    got = attend(subject, parts.case, cache, q=parts.q, **parts.told())
    stacked = {n: np.ascontiguousarray(a.reshape(-1, num_parts, *a.shape[1:]).swapaxes(0, 1)) for n, a in got.items()}
    merged = subject.call(case, "merge_states", outs=stacked["out"], lses=stacked["lse"])
    profile = decode.twice_merged(subject.profile(case.result_dtype), case.result_dtype, case.num_splits, num_parts)
    whole = paged.filled(x, case.dead)
    want = decode.expected(x, whole, profile, DecodeReading.right(x, subject.conventions))
    require(merged, want, when=f"of {num_parts} merged parts")
