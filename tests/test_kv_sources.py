"""What K and V of attention are made of: codes and scales, latents, widths of their own."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from kvconform.faults.every import FAULTS
from kvconform.harness.adapters import find
from kvconform.harness.booking import CONFORMS, VIOLATES
from kvconform.harness.faulty import FaultySubject
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import Options
from kvconform.harness.power import EFFORT, OP
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.oracles import decode, keys, paged
from kvconform.oracles.bound import ORACLE_SLOP, attention_bound
from kvconform.oracles.decode import DecodeReading
from kvconform.specs import scales
from kvconform.specs.case import Case
from kvconform.specs.cells import Cell, cells
from kvconform.specs.conventions import declared
from kvconform.specs.dtypes import numbers
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.operations import NARROW, OPERATIONS, ROUNDED
from kvconform.specs.paged import PagedInputs
from kvconform.specs.pinned import bench_case, long_contexts, schedule
from kvconform.specs.profile import Profile
from kvconform.specs.row import K, V
from kvconform.suites.calls import require_decoded

BOUND = "decode_is_within_the_bound"


def case(**values):
    shape = {"page_size": 4, "num_kv_heads": 2, "group": 2, "head_dim": 8, "kv_lens": (7, 0, 5), "q_dtype": "float32"}
    return Case(**({"op": OP, "layout": "nhd", "dtype": "int8", "spare_pages": 1, **shape} | values))


def read(one):
    x = PagedInputs(one)
    cache = paged.filled(x, one.dead)
    return x, keys.of_all(x, cache, DecodeReading.right(x, declared({})))


def cell(layout, dtype, **offer):
    offer = {"layout": {layout}, "dtype": {dtype}, "kv_scales": set(scales.AXES), **offer}
    return Cell(OP, layout, dtype, offer, declared({}))


@pytest.mark.parametrize("kv_scales", scales.AXES)
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_a_number_is_its_code_times_the_scale_of_its_own_place(kv_scales, dtype):
    x, found = read(case(kv_scales=kv_scales, dtype=dtype))
    for side, one in enumerate(found):
        stored = x.tokens[x.row.parts[side].name].astype(np.float64)
        slot = x.slots[side]
        page, inside = slot // 4, slot % 4
        for token, head in np.ndindex(len(slot), 2):
            places = {"one": 0, "head": head, "page": page[token], "slot": inside[token]}
            scale = x.scales[side]
            factor = 1.0 if scale is None else scale[tuple(places[axis] for axis in scales.AXES[kv_scales])]
            assert np.array_equal(one.values[token, head], stored[token, head] * np.float64(factor))


def test_scales_of_places_without_a_token_hold_what_is_dead_and_others_never():
    x, (k, v) = read(case(kv_scales="token", dead="nan"))
    assert np.isfinite(k.values).all()
    assert np.isfinite(v.values).all()
    assert np.isnan(x.scales[K]).sum() == (x.sizes["page"] * 4 - x.num_tokens) * 2
    assert all(np.isfinite(scale).all() for scale in PagedInputs(case(kv_scales="head", dead="nan")).scales)


def test_codes_beside_scales_and_zeros_are_numbers_by_one_formula():
    one = case(layout="kivi", dtype="uint4", page_size=32, head_dim=32, kv_lens=(30, 32))
    x, found = read(one)
    for side, name in ((K, "k"), (V, "v")):
        code, scale, zero = (x.tokens[f"{name}{rest}"].astype(np.float64) for rest in ("", "_scale", "_zero"))
        if side == V:  # groups along dim
            scale, zero = (np.repeat(a, 32, -1) for a in (scale, zero))
        assert np.array_equal(found[side].values, code * scale + zero)
        assert np.array_equal(found[side].size, np.abs(code * scale) + np.abs(zero))
        assert found[side].roundings == 4


def test_parts_beside_each_other_are_sized_where_one_of_them_is_and_rounded_as_the_worst():
    plain = keys.Numbers(np.full((1, 1, 2), -3.0), None, 2)
    zeroed = keys.Numbers(np.full((1, 1, 1), 1.0), np.full((1, 1, 1), 5.0), 4)
    both = keys._beside([plain, zeroed])
    assert (both.values.tolist(), both.size.tolist(), both.roundings) == ([[[-3, -3, 1]]], [[[3, 3, 5]]], 4)
    assert keys._beside([plain, plain]).size is None


def test_k_of_a_latent_is_latent_and_rope_and_v_is_the_latent():
    x, (k, v) = read(case(layout="mla", dtype="float32", num_kv_heads=1, q_dtype=""))
    latent, rope = (x.tokens[name].astype(np.float64) for name in ("ckv", "kpe"))
    assert np.array_equal(k.values[:, 0], np.concatenate([latent, rope], -1))
    assert np.array_equal(v.values[:, 0], latent)
    assert x.q.shape == (3, 2, 8 + 64)


@pytest.mark.parametrize("layout", [row.name for row in OPERATIONS[OP].layouts])
def test_every_layout_that_is_attended_to_has_a_k_and_a_v_of_numbers_about_one(layout):
    row = LAYOUTS[layout]
    dtype = next(dtype for dtype in row.dtypes if dtype in OPERATIONS[OP].dtypes)
    one = cell(layout, dtype)
    sizes = {axis: one.allowed(axis)[-1] for axis in ("page_size", "num_kv_heads", "head_dim")}
    if one._has_own_v:
        sizes["head_dim_v"] = 5
    q_dtype = "" if dtype in ROUNDED else "float32"
    x, (k, v) = read(case(layout=layout, dtype=dtype, kv_lens=(5, 1), q_dtype=q_dtype, **sizes))
    assert (k.values.shape[-1], v.values.shape[-1]) == (x.width_of(K), x.width_of(V))
    assert x.width_of(K) == x.q.shape[-1]
    for one in (k, v):
        assert 0.01 < np.abs(one.values).max() <= 16
        assert one.size is None or (one.size >= np.abs(one.values)).all()


def test_scales_are_drawn_of_narrow_caches_alone_and_a_latent_has_one_head():
    assert set(cell("nhd", "int8").allowed("kv_scales")) == set(scales.AXES)
    assert cell("nhd", "float16").allowed("kv_scales") == ["none"]
    assert cell("token_head_scales", "int8").allowed("kv_scales") == ["none"]
    assert cell("nhd", "int8", q_dtype={"bfloat16"}).allowed("q_dtype") == ["bfloat16"]
    assert cell("nhd", "bfloat16").allowed("q_dtype") == [""]
    assert cell("mla", "float16").allowed("num_kv_heads") == [1]


def test_a_narrow_type_is_drawn_only_where_it_is_offered_by_name():
    silent = {"layout": {"nhd"}}
    assert {one.dtype for one in cells(OP, silent, declared({}))} == set(ROUNDED)
    assert {one.dtype for one in cells(OP, {**silent, "dtype": {"int8"}}, declared({}))} == {"int8"}
    assert set(NARROW) < set(OPERATIONS[OP].dtypes)


def test_numbers_of_packed_floats_are_those_of_their_formats():
    assert numbers("float4_e2m1fn", np.arange(16, dtype=np.uint8)).tolist()[:8] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    found = numbers("float8_e8m0fnu", np.array([126, 127, 129, 255], np.uint8))
    assert np.array_equal(found, [0.5, 1.0, 4.0, np.nan], equal_nan=True)


# --- the bound


def dequantised(one, dtype):
    """Attention of a Case whose K and V were rounded into a dtype on their way from the cache, and what is expected."""
    x, (k, v) = read(one)
    rounded = [numbers_in.values.astype(np.float32).astype(dtype).astype(np.float64) for numbers_in in (k, v)]
    right = DecodeReading.right(x, declared({}))
    exact = partial(attention_bound, sm_scale=right.sm_scale, profile=Profile())
    outs = []
    for row, seq in enumerate(right.seq_of):
        at = x.owners[0] == seq
        k_row, v_row = (a[at].swapaxes(0, 1)[right.head_of] for a in rounded)
        outs.append(exact(x.q[row].astype(np.float64), k_row, v_row).out)
    return x, np.stack(outs).astype(np.float32), right


@pytest.mark.parametrize("seed", range(6))
def test_a_cache_that_is_dequantised_into_bfloat16_is_right_only_where_that_is_declared(seed):
    one = case(kv_scales="token", family="sharp", seed=seed, kv_lens=(40, 9, 33), page_size=16)
    x, got, right = dequantised(one, "bfloat16")
    cache = paged.filled(x, one.dead)

    def wrong(**profile):
        declared_so = replace(Profile(out_format="float32"), **profile)
        return decode.expected(x, cache, declared_so, right)["out"].unmet(got).any()

    assert wrong()
    assert not wrong(dequant_format="bfloat16")
    assert not wrong(k_format="bfloat16", v_format="bfloat16")


# --- what a wrong kernel is told


@pytest.fixture(scope="module")
def reference():
    found = find("numpy_ref")
    return Subject(found.load(), found.name, str(found.path))


TOLD = {
    "k_scale_is_ignored": "k_scale_is_ignored",
    "v_scale_is_ignored": "v_scale_is_ignored",
    "scales_are_swapped": "k_scale_and_v_scale_are_swapped",
    "slot_zero_scales_its_page": "scale_of_the_first_slot_for_its_page",
    "head_zero_scales_all": "scale_of_the_first_head_for_all",
    "codes_are_not_scaled": "codes_are_not_scaled",
    "zeros_are_not_added": "zeros_are_not_added",
}


@pytest.mark.parametrize("name", TOLD)
def test_a_mistake_about_scales_is_named(reference, name):
    fault = FAULTS[name]
    layout = fault.needs.get("layout", "nhd")
    dtype = "uint4" if layout == "kivi" else "int8"
    options = Options(EFFORT, ops=(OP,), layouts=(layout,), dtypes=(dtype,), laws=(BOUND,))
    searcher = Searcher(FaultySubject(reference, fault), options)
    searcher.begin(1)
    (found,) = searcher.run(all_laws()[BOUND])
    assert found.outcome == VIOLATES
    assert found.looks_like == TOLD[name]


def test_the_scales_are_not_told_to_who_does_not_offer_them(reference):
    seen = []

    class Narrow(Subject):
        def _run(self, op, positional, keywords):
            seen.append(set(keywords))
            return super()._run(op, positional, keywords)

    for offered in (True, False):
        one = Narrow(reference.adapter, reference.name, reference.file)
        axes = {axis: value for axis, value in one.offers[OP].items() if offered or axis != "kv_scales"}
        one.offers = {OP: axes}
        searcher = Searcher(one, Options(EFFORT, layouts=("nhd",), dtypes=("int8",), laws=(BOUND,)))
        searcher.begin(1)
        assert [cell.outcome for cell in searcher.run(all_laws()[BOUND])] == [CONFORMS]
        assert all({"k_scale", "v_scale"} <= names for names in seen) is offered
        assert bool(seen) is True
        seen.clear()


# --- pinned cases


def test_pinned_cases_of_a_narrow_cell_have_scales_of_one_kind_and_of_each_place_with_every_feature():
    one = cell("nhd", "int8", window={"min": 0}, sinks={"none", "drawn"}, num_splits={1, 2})
    pinned_cases = schedule(one)
    for kv_scales in ("tensor", "token"):
        of_kind = [case for case in pinned_cases if case.kv_scales == kv_scales]
        assert any(case.window for case in of_kind)
        assert any(case.sinks == "drawn" for case in of_kind)
    assert {case.kv_scales for case in schedule(cell("nhd", "float16", window={"min": 0}))} == {"none"}


@pytest.mark.parametrize("layout", ["beside_nhd_diffkv", "token_slots_diffkv"])
def test_a_long_context_shows_in_more_dims_of_v_than_one(layout):
    cases = long_contexts(cell(layout, "float32"))
    assert cases
    assert all(case.head_dim_v > 1 and case.head_dim > 1 for case in cases)


def test_a_case_that_is_timed_has_a_type_of_q_and_one_head_of_latents():
    narrow, latent = bench_case(cell("nhd", "int8")), bench_case(cell("mla", "float16"))
    assert narrow.result_dtype in ROUNDED
    assert (latent.num_kv_heads, latent.head_dim_v) == (1, 0)
    assert bench_case(cell("beside_nhd_diffkv", "float16")).head_dim_v == 64


def test_the_scale_of_a_latent_is_always_told():
    latent = PagedInputs(case(layout="mla", dtype="float32", num_kv_heads=1, q_dtype=""))
    assert latent.scale_told("head_dim") == 8**-0.5
    assert PagedInputs(case(dtype="float32", q_dtype="")).scale_told("head_dim") is None


def test_a_case_of_a_cache_in_q_s_own_type_may_be_moved_to_another_layout():
    """It has no q_dtype, which no offer of some names."""
    offer = {"layout": {"nhd", "hnd"}, "dtype": {"float32", "int8"}, "q_dtype": {"float32"}, "kv_scales": {"none"}}
    here = Cell(OP, "hnd", "float32", offer, declared({}))
    assert here.draws(case(layout="hnd", dtype="float32", q_dtype=""))
    assert not here.draws(case(layout="hnd", dtype="float32", q_dtype="bfloat16"))


@pytest.mark.parametrize(("layout", "screened"), [("nhd", True), ("mla", False)])
def test_latents_are_not_screened_since_their_v_is_not_drawn_apart_from_k(reference, monkeypatch, layout, screened):
    asked, required = [], decode.required

    def spied(*arguments, **options):
        asked.append(options["screened"])
        return required(*arguments, **options)

    monkeypatch.setattr(decode, "required", spied)
    require_decoded(reference, Case(op=OP, layout=layout, dtype="float32", kv_lens=(3,), head_dim=8))
    assert asked == [screened]


@pytest.mark.parametrize(
    "features", [{}, {"sinks": "drawn", "window": 3, "soft_cap": 2.0}, {"q_lens": (2, 3, 1, 2, 1)}]
)
def test_long_sequences_are_bounded_apart_as_in_one_batch(monkeypatch, features):
    """What none is padded to changes nothing; a row of a sequence without keys may count its sink otherwise."""
    one = case(dtype="float32", kv_lens=(1027, 4, 0, 1025, 1024), **features)
    x, kv = read(one)
    reading = DecodeReading.right(x, declared({"empty_with_sink": "lse_of_empty"}))
    assert [list(group) for group in decode.of_like_lengths(reading, 1)] == [[0, 1, 2, 3, 4]]
    assert [list(group) for group in decode.of_like_lengths(reading, 1000)] == [[0, 3, 4], [1, 2]]

    def bounded(padded):
        monkeypatch.setattr(decode, "PADDED", padded)
        return decode.attended(x, kv, Profile(), reading, lam=5.0)

    apart, at_once = bounded(0), bounded(1 << 40)
    largest = float(np.abs(x.tokens["v"].astype(np.float64)).max())
    for name, size in (("out", largest), ("lse", 1 + np.abs(at_once.lse))):
        both = (getattr(apart, name), getattr(at_once, name))
        empty = np.isneginf(both[1])
        assert (np.isneginf(both[0]) == empty).all()
        with np.errstate(invalid="ignore"):  # -inf of rows without keys
            far = np.abs(both[0] - both[1]) > 2 * ORACLE_SLOP * size  # what the bound itself pays for each evaluation
        assert not (far & ~empty).any(), name
        errors = (getattr(apart, f"{name}_error"), getattr(at_once, f"{name}_error"))
        assert not ((np.abs(errors[0] - errors[1]) > 2 * ORACLE_SLOP * (errors[1] + size)) & ~empty).any(), name
    assert (np.abs(apart.likely - at_once.likely) <= 2 * ORACLE_SLOP * largest).all()
    assert apart.likely.any()
    assert decode.attended(x, kv, Profile(), reading).likely is None
