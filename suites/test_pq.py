"""Product quantisation: nearest centroids, their codes in pages, and attention over codes and what is not coded yet."""

from dataclasses import replace
from functools import partial

import numpy as np

from kvconform.oracles import paged, pq, pq_mistakes
from kvconform.oracles.pq import PQReading
from kvconform.oracles.verdict import require
from kvconform.specs import data, variations
from kvconform.specs.cells import Cell
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import pinned
from kvconform.specs.pq import of_side
from kvconform.specs.row import SIDE_NAMES, SIDES, K
from kvconform.suites.calls import (
    BUFFERS,
    LEFT_OVER,
    WHERE_OTHERS_LAY,
    of_returned,
    passes_zeros,
    require_attention,
    require_both,
)
from kvconform.suites.law import law, where_compiled
from kvconform.suites.test_relations import layouts_beside, takes_layouts

ORDERED = {"dead": ("zero",)}

MILLION = {"num_subspaces": 64, "sub_dim": 2, "num_centroids": 256}
MILLION |= {"page_size": 64, "residual": 40, "group": 5, "num_splits": 32, "num_kv_heads": 2}
"""Sizes of MILLION's kernels, and some beyond those that others count to: tiles of 16, four heads, a byte."""


LENS = (300, 64, 1)
"""More tokens than a byte counts, one page, and less."""


def _of_million(cell):
    """One case of these sizes, or of each the last one that is drawn; as many centroids as codes count."""
    if cell.static or not cell.takes(kv_lens=LENS):
        return ()
    wish = MILLION | {"num_centroids": max(cell.allowed("num_centroids"))}
    wish |= {"page_size": max(LENS)} if cell.row.contiguous else {}
    here = {axis: value for axis, value in wish.items() if axis in cell.axes}
    sizes = {axis: value if cell.takes(**{axis: (value,)}) else cell.allowed(axis)[-1] for axis, value in here.items()}
    return (pinned(cell, kv_lens=LENS, family="fine", **sizes, **_mixed(cell)),)


def _mixed(cell):
    """Codes that differ from head to head, or vectors that some code is hardly nearer to, where a cell has those."""
    free = {"codes": "mixed", "vectors": "beside", "spare_pages": 1 - cell.row.contiguous}
    return {axis: value for axis, value in free.items() if axis in cell.axes and cell.takes(**{axis: (value,)})}


def _hardly_nearer(cell):
    """Vectors of every bit of their type beside the middle of two centroids: distances in fewer bits show."""
    sizes = {"num_subspaces": 8, "sub_dim": 4, "num_centroids": max(cell.allowed("num_centroids"))}
    sizes |= {"num_tokens": 64} if "num_tokens" in cell.axes else {"page_size": 64}
    if cell.static or not cell.takes(**{axis: (value,) for axis, value in sizes.items()}):
        return ()
    lens = {"kv_lens": (64,)} if "kv_lens" in cell.axes else {}
    drawn = {"family": "fine", "vectors": "beside", **lens}
    return tuple(
        pinned(cell, q_dtype=one, seed=seed, **sizes, **drawn) for one in cell.allowed("q_dtype") for seed in (1, 2)
    )


def _encode(subject, case, x, codebooks):
    """The codes of some vectors, one a byte."""
    got = subject.call(case, "pq_encode", x=x, codebooks=codebooks, dtype=case.dtype)["codes"]
    return pq.loaded(got, (*x.shape[:2], len(codebooks)), case.dtype)


@law("pq_encode", pinned=_hardly_nearer, every_cell=True)
def test_pq_encode_chooses_the_nearest_centroid(subject, case):
    """Each code is of a centroid that no other one is surely nearer than; where nothing rounds, the lowest of those."""
    x = inputs(case)
    got = _encode(subject, case, x.x, x.codebooks[K])
    want = pq.expect_encode(x, subject.profile(case.result_dtype))
    require({"codes": got}, want)
    if not want["codes"].unmet(np.zeros_like(got)).any():
        subject.saw_nothing()


def _every_centroid(cell):
    """As many centroids of bits as there may be, each of them in some code: a NaN that a conversion quiets is rare."""
    sizes = {"num_subspaces": 8, "sub_dim": 8, "num_centroids": max(cell.allowed("num_centroids")), "num_tokens": 64}
    fits = not cell.static and cell.takes(**{axis: (value,) for axis, value in sizes.items()})
    return tuple(pinned(cell, family="bits", q_dtype=one, **sizes) for one in cell.allowed("q_dtype")) if fits else ()


@law("pq_decode", pinned=_every_centroid, every_cell=True)
def test_pq_decode_gives_the_centroids_bit_for_bit(subject, case):
    """Centroids side by side, NaN payloads and all; the code of every subspace picks from that subspace's own."""
    x = inputs(case)
    codes = pq.stored(x.codes, case.dtype)
    got = subject.call(case, "pq_decode", codes=codes, codebooks=x.codebooks[K], dtype=case.dtype)
    require(got, pq.expect_decode(x))
    if not x.codes.any():
        subject.saw_nothing()


def _told(case):
    return {name: getattr(case, name) for name in ("layout", "dtype", "page_size", "num_subspaces")}


def _append(subject, x, cache, **changed):
    """The cache after pq_append of a Case."""
    given = {"k": x.k, "v": x.v, "slot_mapping": x.slot_mapping, **_told(x.case)}
    given |= {of_side(side): x.codebooks[side] for side in SIDES}
    return subject.call(x.case, "pq_append", cache=cache, **{**given, **changed})["cache"]


def _require_appended(x, before, got, codes):
    """Raise Violation unless a cache is what it was but for some codes in the slots that were written."""
    want = paged.expect_cache(x.pages, pq.appended(x, before, codes))
    require(got, want)


@law("pq_append", pinned=lambda cell: (*_of_million(cell), *_hardly_nearer(cell)), every_cell=True)
def test_pq_append_writes_the_nearest_codes(subject, case):
    """The slot of each token and head holds the code of a nearest centroid in each subspace."""
    x = inputs(case)
    got = _append(subject, x, x.pages.dead(LEFT_OVER))
    (at, slots), shows = pq.live_slots(x), False
    for side, want in zip(SIDES, pq.encoded(x, subject.profile(case.result_dtype)), strict=True):
        parts = {name: getattr(want, name) for name in ("allowed", "distance", "error")}
        live = {name: array.reshape(-1, *array.shape[2:])[at] for name, array in parts.items()}
        judged = replace(want, locate=pq.named(x, at, side), **live)
        found = pq.written(x, got, side, slots)
        require({SIDE_NAMES[side]: found}, {SIDE_NAMES[side]: judged})
        shows |= bool(judged.unmet(np.zeros_like(found)).any())
    if not shows:
        subject.saw_nothing()


@law("pq_append", pinned=_of_million)
def test_pq_append_touches_only_its_slots(subject, case):
    """Whatever codes it chose, every other bit of both pools is what it was: the other half of a byte, too."""
    x = inputs(case)
    before = x.pages.dead(LEFT_OVER)
    got = _append(subject, x, before)
    _, slots = pq.live_slots(x)
    _require_appended(x, before, got, {side: pq.written(x, got, side, slots) for side in SIDES})
    if not len(slots):
        subject.saw_nothing()


# --- attention


def _arguments(x, cache, **changed):
    """The arguments of pq_decode_attention for a Case."""
    case = x.case
    given = {"q": x.q, "cache": cache, "page_ids": x.page_ids, "kv_lens": x.kv_lens, **_told(case)}
    given |= {of_side(side): x.codebooks[side] for side in SIDES}
    given |= {f"residual_{SIDE_NAMES[side]}": x.residual[side] for side in SIDES}
    given |= {"residual_lens": x.residual_lens, "sm_scale": x.sm_scale, "num_splits": case.num_splits}
    return {**given, **changed}


def _attend(subject, x, cache, **changed):
    return subject.call(x.case, "pq_decode_attention", **_arguments(x, cache, **changed))


def _expected(subject, x, cache):
    profile = pq.rounding(subject.profile(x.case.result_dtype), x.case.result_dtype, x.case.num_splits)
    right = PQReading.right(x, subject.conventions)
    return pq.expected(x, cache, profile, right), partial(pq_mistakes.of_attention, x, cache, profile, right)


def _require_repeated(subject, x, got, want, what, at=slice(None)):
    """Raise Violation unless two results agree bit for bit; within both bounds where a call may give other bits."""
    if subject.conventions["deterministic"]:
        require_attention(subject, x, got, want, what, at)
        return
    bounds = partial(_bounds, subject, x, paged.filled(x.pages, "zero"))
    require_both(subject, x, got, want, what, (bounds, bounds), at)


def _bounds(subject, x, cache):
    return _expected(subject, x, cache)[0]


@law("pq_decode_attention", pinned=_of_million, every_cell=True)
def test_pq_attention_is_within_the_bound(subject, case):
    """out and lse lie where a correct kernel of the declared arithmetic can land, over codes and residual together."""
    x = inputs(case)
    cache = paged.filled(x.pages, case.dead)
    got = _attend(subject, x, cache)
    want, explained = _expected(subject, x, cache)
    judged = {name: want[name] for name in got}
    require(got, judged, lambda: of_returned(got, explained()))
    if passes_zeros(judged):
        subject.saw_nothing()


@law(
    "pq_decode_attention",
    only={"dead": ("finite", "nan", "inf")},
    wants=lambda conventions: set(conventions["dead"]) - {"zero"},
)
def test_pq_attention_ignores_what_is_dead(subject, case):
    """Codes in slots without a token, and rows of the residual beyond its length, change no bit of the result."""
    x, clean = inputs(case), inputs(replace(case, dead="zero"))
    got = _attend(subject, x, paged.filled(x.pages, case.dead))
    want = _attend(subject, clean, paged.filled(clean.pages, "zero"))
    said = f"with {case.dead} contents where nothing lives against zeros there"
    _require_repeated(subject, clean, got, want, said)
    rows = np.arange(case.residual) >= x.residual_lens[:, None]
    if not (x.pages.is_poisoned or rows.any()):
        subject.saw_nothing()


@law(
    "pq_decode_attention",
    only={**ORDERED, "spare_pages": (1, 3)},
    rows=lambda row: not row.contiguous,
)
def test_pq_attention_does_not_see_page_numbers(subject, case):
    """Giving every page another number, in pools and page ids alike, changes no bit of the result.

    And back again, written over the arguments of the call before.
    """
    x = inputs(case)
    renamed = x.with_pages_renamed()
    before = _attend(subject, x, paged.filled(x.pages, "zero"))
    with subject.overwriting() as overwrote:
        after = _attend(subject, renamed, paged.filled(renamed.pages, "zero"))
        _require_repeated(subject, x, after, before, "with pages renumbered against before")
        again = _attend(subject, x, paged.filled(x.pages, "zero"))
        where = WHERE_OTHERS_LAY if overwrote() else ""
        _require_repeated(subject, x, again, before, f"with the first numbers again{where} against before")


@law("pq_decode_attention", wants=lambda conventions: conventions["deterministic"], only={"buffers": BUFFERS})
def test_pq_attention_repeats_bit_for_bit(subject, case):
    """The same call gives the same bits."""
    x = inputs(case)
    cache = paged.filled(x.pages, case.dead)
    first = _attend(subject, x, cache)
    require_attention(subject, x, _attend(subject, x, cache), first, "of the second call against the first")


@law("pq_decode_attention", only={"codes": ("mixed",)})
def test_pq_attention_turns_with_the_sign_of_v(subject, case):
    """Centroids and residual of V with the other sign give out with the other sign, bit for bit, and the same lse."""
    x = inputs(case)
    cache = paged.filled(x.pages, case.dead)
    before = _attend(subject, x, cache)
    turned = {"v_codebooks": -x.codebooks[1], "residual_v": -x.residual[1]}
    after = _attend(subject, x, cache, **turned)
    zero = np.zeros((), before["out"].dtype)
    after["out"] = np.where(before["out"] == zero, before["out"], -after["out"])  # of a zero the sign says nothing
    _require_repeated(subject, x, after, before, "with V of the other sign, turned back, against before")


@law("pq_decode_attention", only={**ORDERED, "codes": ("mixed",), "residual": (1, 3, 8)})
def test_pq_token_may_be_coded_or_not(subject, case):
    """The newest tokens of codes, given as if not coded yet: results are no farther apart than both bounds allow."""
    x = inputs(case)
    coded, uncoded = x.with_newest(0), x.with_newest(case.residual)
    cache = paged.filled(x.pages, "zero")
    one, two = (_attend(subject, form, cache) for form in (coded, uncoded))
    bounds = tuple(partial(_bounds, subject, form, cache) for form in (coded, uncoded))
    require_both(subject, coded, one, two, "of the newest tokens in codes against as they are", bounds)
    if not uncoded.residual_lens.any():
        subject.saw_nothing()


@law("pq_decode_attention", only={**ORDERED, "codes": ("mixed",)})
def test_pq_attention_does_not_see_its_neighbours(subject, case):
    """Other tokens, coded or not, and another query in all other sequences change no bit of a row."""
    x = inputs(case)
    kept = int(data.hashes(case.seed, "kept")) % len(case.kv_lens)
    if len(case.kv_lens) == 1:
        subject.saw_nothing()
        return
    other = variations.with_other_codes(x, kept)
    results = [_attend(subject, one, paged.filled(one.pages, "zero")) for one in (other, x)]
    at = slice(kept, kept + 1)
    rows = [{name: got[name][at] for name in got} for got in results]
    _require_repeated(subject, x, *rows, f"of sequence {kept} with others beside it against before", at)


@law(
    "pq_decode_attention",
    only={**ORDERED, "codes": ("mixed",)},
    wants=lambda conventions: conventions["deterministic"] and "layouts" in conventions["invariances"],
    cells=takes_layouts,
    longer=where_compiled,
)
def test_pq_attention_agrees_across_layouts(subject, case):
    """Pages whose codes of V lie token by token and pages of their transpose give the same bits."""
    x = inputs(case)
    cell = Cell(case.op, case.layout, case.dtype, subject.offers[case.op], subject.conventions)
    moved = {name: replace(case, layout=name) for name in layouts_beside(cell)}
    taken = [one for name, one in moved.items() if replace(cell, layout=name).takes_case(one)]
    if not taken or not x.kv_lens.any():
        subject.saw_nothing()
        return
    other = inputs(taken[0])
    results = [_attend(subject, one, paged.filled(one.pages, "zero")) for one in (other, x)]
    require_attention(subject, x, *results, f"in {other.case.layout} against in {case.layout}")
