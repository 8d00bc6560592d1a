"""Product quantisation: nearest centroids, their codes in pages, and attention over codes and what is not coded yet."""

from dataclasses import replace
from functools import partial

import numpy as np

from kvconform.oracles import paged, pq, pq_mistakes
from kvconform.oracles.nearest import AXES, nearest
from kvconform.oracles.pq import PQReading
from kvconform.oracles.verdict import by_axes, require, require_near, require_same
from kvconform.specs.inputs import inputs
from kvconform.specs.pq import of_side
from kvconform.specs.row import SIDE_NAMES, SIDES, K
from kvconform.suites.calls import BUFFERS, LEFT_OVER, passes_zeros, require_attention
from kvconform.suites.law import law

ORDERED = {"dead": ("zero",)}


def _encode(subject, case, x, codebooks):
    """The codes of some vectors, one a byte."""
    got = subject.call(case, "pq_encode", x=x, codebooks=codebooks, dtype=case.dtype)["codes"]
    return pq.loaded(got, (*x.shape[:2], len(codebooks)), case.dtype)


@law("pq_encode")
def test_encode_chooses_the_nearest_centroid(subject, case):
    """Each code is of a centroid that no other one is surely nearer than; where nothing rounds, the lowest of those."""
    x = inputs(case)
    got = _encode(subject, case, x.x, x.codebooks[K])
    want = pq.expect_encode(x, subject.profile(case.result_dtype))
    require({"codes": got}, want)
    if not want["codes"].unmet(np.zeros_like(got)).any():
        subject.saw_nothing()


@law("pq_encode", wants=lambda conventions: conventions["deterministic"])
def test_encode_looks_at_each_subspace_alone(subject, case):
    """Tokens, heads and subspaces in the reverse order give the same codes in the reverse order."""
    x = inputs(case)
    book = x.codebooks[K]
    cut = x.x.reshape(*x.x.shape[:2], *book[:, 0].shape)
    turned = np.ascontiguousarray(cut[::-1, ::-1, ::-1]).reshape(x.x.shape)
    before = _encode(subject, case, x.x, book)
    after = _encode(subject, case, turned, np.ascontiguousarray(book[::-1]))[::-1, ::-1, ::-1]
    allowed = pq.expect_encode(x, subject.profile(case.result_dtype))["codes"].allowed.sum(-1) > 1
    same = np.where(allowed, before, after)  # where several may be chosen, another order of sums may choose another
    require_same(same, before, "codes of everything reversed against before", by_axes(*AXES))
    if not before.any():
        subject.saw_nothing()


@law("pq_decode")
def test_decode_gives_the_centroids_bit_for_bit(subject, case):
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


@law("pq_append")
def test_pq_append_writes_the_nearest_codes(subject, case):
    """The slot of each token and head holds the code of a nearest centroid in each subspace."""
    x = inputs(case)
    got = _append(subject, x, x.pages.dead(LEFT_OVER))
    at, slots = pq.live_slots(x)
    for side, want in zip(SIDES, pq.encoded(x, subject.profile(case.result_dtype)), strict=True):
        allowed, distance = (a.reshape(-1, *a.shape[2:])[at] for a in (want.allowed, want.distance))
        where = pq.named(x, at, side)
        found = {SIDE_NAMES[side]: pq.written(x, got, side, slots)}
        require(found, {SIDE_NAMES[side]: replace(want, allowed=allowed, distance=distance, locate=where)})
    if not len(at):
        subject.saw_nothing()


@law("pq_append")
def test_pq_append_touches_only_its_slots(subject, case):
    """Whatever codes it chose, every other bit of both pools is what it was: the other half of a byte, too."""
    x = inputs(case)
    before = x.pages.dead(LEFT_OVER)
    got = _append(subject, x, before)
    _, slots = pq.live_slots(x)
    _require_appended(x, before, got, {side: pq.written(x, got, side, slots) for side in SIDES})
    if not len(slots):
        subject.saw_nothing()


@law("pq_append", needs=("pq_encode",), wants=lambda conventions: conventions["deterministic"])
def test_pq_append_agrees_with_encode(subject, case):
    """What it writes is what pq_encode says of the same vectors: quantise, and transpose."""
    x = inputs(case)
    at, _ = pq.live_slots(x)
    codes, several = {}, {}
    for side in SIDES:
        vectors, book = (x.k, x.v)[side], x.codebooks[side]
        alone = _encode(subject, replace(case, layout="codes"), vectors, book)
        codes[side] = alone.reshape(-1, case.num_subspaces)[at]
        choice = nearest(vectors, book, subject.profile(case.result_dtype))
        several[side] = choice.allowed.sum(-1).reshape(-1, case.num_subspaces)[at] > 1
    before = x.pages.dead(LEFT_OVER)
    got = _append(subject, x, before)
    for side in SIDES:  # where several may be chosen, two kernels may choose two
        chosen = pq.written(x, got, side, pq.live_slots(x)[1])
        codes[side] = np.where(several[side], chosen, codes[side])
    _require_appended(x, before, got, codes)
    if not len(at):
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
    profile = pq.rounding(subject.profile(x.case.result_dtype), x)
    right = PQReading.right(x, subject.conventions)
    return pq.expected(x, cache, profile, right), partial(pq_mistakes.of_attention, x, cache, profile, right)


@law("pq_decode_attention")
def test_pq_attention_is_within_the_bound(subject, case):
    """out and lse lie where a correct kernel of the declared arithmetic can land, over codes and residual together."""
    x = inputs(case)
    cache = paged.filled(x.pages, case.dead)
    got = _attend(subject, x, cache)
    want, explained = _expected(subject, x, cache)
    judged = {name: want[name] for name in got}
    require(got, judged, explained)
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
    require_attention(got, want, f"with {case.dead} contents where nothing lives against zeros there")
    rows = np.arange(case.residual) >= x.residual_lens[:, None]
    if not (x.pages.is_poisoned or rows.any()):
        subject.saw_nothing()


@law("pq_decode_attention", only={**ORDERED, "spare_pages": (1, 3)}, rows=lambda row: not row.contiguous)
def test_pq_attention_does_not_see_page_numbers(subject, case):
    """Giving every page another number, in pools and page ids alike, changes no bit of the result."""
    x = inputs(case)
    renamed = x.with_pages_renamed()
    before = _attend(subject, x, paged.filled(x.pages, "zero"))
    after = _attend(subject, renamed, paged.filled(renamed.pages, "zero"))
    require_attention(after, before, "with pages renumbered against before")
    if not x.kv_lens.any():
        subject.saw_nothing()


@law("pq_decode_attention", wants=lambda conventions: conventions["deterministic"], only={"buffers": BUFFERS})
def test_pq_attention_repeats_bit_for_bit(subject, case):
    """The same call gives the same bits."""
    x = inputs(case)
    cache = paged.filled(x.pages, case.dead)
    first = _attend(subject, x, cache)
    require_attention(_attend(subject, x, cache), first, "of the second call against the first")


@law("pq_decode_attention", only={"codes": ("mixed",)})
def test_pq_attention_scales_with_v(subject, case):
    """Centroids and residual of V with the other sign give out with the other sign, bit for bit, and the same lse."""
    x = inputs(case)
    cache = paged.filled(x.pages, case.dead)
    before = _attend(subject, x, cache)
    turned = {"v_codebooks": -x.codebooks[1], "residual_v": -x.residual[1]}
    after = _attend(subject, x, cache, **turned)
    zero = np.zeros((), before["out"].dtype)
    after["out"] = np.where(before["out"] == zero, before["out"], -after["out"])  # of a zero the sign says nothing
    require_attention(after, before, "with V of the other sign, turned back, against before")
    if not before["out"].any():
        subject.saw_nothing()


@law("pq_decode_attention", only={**ORDERED, "codes": ("mixed",), "residual": (1, 3, 8)})
def test_a_token_may_be_coded_or_not(subject, case):
    """The newest tokens of codes, given as if not coded yet: results are no farther apart than both bounds allow."""
    x = inputs(case)
    coded, uncoded = x.with_newest(0), x.with_newest(case.residual)
    cache = paged.filled(x.pages, "zero")
    results = [_attend(subject, one, cache) for one in (coded, uncoded)]
    bounds = [_expected(subject, one, cache)[0] for one in (coded, uncoded)]
    for name in results[0]:
        pairs = [(got[name], want[name]) for got, want in zip(results, bounds, strict=True)]
        (one, bound), (two, other) = pairs
        require_near(one, two, bound, other, f"{name} of the newest tokens in codes against as they are")
    if not uncoded.residual_lens.any() or not results[0]["out"].any():
        subject.saw_nothing()
