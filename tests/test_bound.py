"""The error bound admits every correct kernel, and little else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

from kvconform.numerics import emulators as emulated
from kvconform.numerics.campaign import numbered
from kvconform.numerics.emulators import Codes, Machine, Result, Row, f32, stored
from kvconform.numerics.kinds import KINDS, draw
from kvconform.numerics.ratios import bounded, inside, ratios
from kvconform.oracles import bound
from kvconform.oracles.bound import Bounded, OutsideDomain, attention_bound, merge_bound
from kvconform.oracles.rounding import admissible, round_to
from kvconform.specs.dtypes import DTYPES, FORMATS
from kvconform.specs.profile import Profile

LN2 = float(np.log(2.0))


def all_inside(rows: Sequence[Row], results: Sequence[Result], profile: Profile) -> bool:
    return all(inside(result, bounded(row, profile), profile) for row, result in zip(rows, results, strict=True))


def one_dim(scores: Any, v: Any, **options: Any) -> Row:
    """A row whose scores are given: head_dim 1, q = 1."""
    return Row(f32([1.0]), f32(scores)[:, None], f32(v).reshape(len(scores), -1), **options)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Replace one function of the bound: what it would be without a term."""
    return lambda name, substitute: monkeypatch.setattr(bound, name, substitute)


# --- the kernels that broke earlier bounds: each is correct, lies inside, and would be outside without the term


@pytest.mark.parametrize("logit", [1e3, 1e4])
def test_attack_01_flash_combine_is_not_divided_again(logit: float) -> None:
    """The rounding of lse, u |lse|, is a factor common to all of out, and nothing divides it away."""
    rng = np.random.default_rng(1)
    rows = [one_dim(logit + rng.random(16), np.ones(16)) for _ in range(8)]
    profile = Profile(splits=4, merge_levels=1)
    results = [emulated.split(Machine(), row, splits=4, merge=emulated.merge_flash) for row in rows]
    assert all_inside(rows, results, profile)
    assert not all_inside(rows, results, replace(profile, renormalises=True))


@pytest.mark.parametrize("logit", [1e3, 1e4])
def test_attack_02_two_passes(logit: float) -> None:
    """exp(s - lse) multiplies as it is: the same common factor without any split."""
    rng = np.random.default_rng(2)
    rows = [one_dim(logit + rng.random(16), np.ones(16)) for _ in range(8)]
    results = [emulated.two_pass(Machine(), row) for row in rows]
    assert all_inside(rows, results, Profile())
    assert not all_inside(rows, results, Profile(renormalises=True))


def test_attack_03_lse_is_rounded_at_every_level() -> None:
    """A sequential merge rounds lse, and the weights made of it, once a level."""
    rng = np.random.default_rng(3)
    rows = [one_dim(1e5 + 2 * rng.random(1024), rng.standard_normal(1024)) for _ in range(4)]
    results = [emulated.merge_sequential(Machine(), list(zip(row.v, row.k[:, 0], strict=True))) for row in rows]
    profile = Profile(splits=1024, renormalises=True)
    assert all_inside(rows, results, profile)
    assert not all_inside(rows, results, replace(profile, merge_levels=1))


def _crossing(gap: float, logit: float) -> tuple[Row, Row]:
    """Two keys; q in bfloat16 lowers the first score and raises the second, so that they cross. Exact and rounded."""
    low, high = 1 + 2.0**-8, 1 + 3 * 2.0**-8  # ties: to 1 and to 1 + 2**-6
    exact = Row(f32([low, high]), f32([[logit / low, 0], [0, (logit - gap) / high]]), f32([[1.0], [-1.0]]))
    return exact, replace(exact, q=stored(exact.q, "bfloat16"))


@pytest.mark.parametrize(("gap", "logit"), [(200.0, 1e5), (850.0, 3e5)])
def test_attack_04_exponent_errors_are_not_clipped(gap: float, logit: float) -> None:
    """q in bfloat16 moves scores by more than any clip of D (50): the row picks another key.

    4b: at a gap of 850 p is 0 in float64 although p e^D is not; weights have to come from log p + D.
    """
    exact, seen = _crossing(gap, logit)
    profile = Profile(q_format="bfloat16")
    result, want = emulated.two_pass(Machine(), seen), bounded(exact, profile)
    assert want.out[0] > 0.99
    assert result[0][0] < -0.9  # the other key
    assert inside(result, want, profile)
    clipped = np.exp(-gap) * np.expm1(50.0) * 2 / np.exp(-50.0)
    assert abs(result[0][0] - want.out[0]) > 1e9 * clipped
    assert abs(result[1] - want.lse) > 50.0


def test_attack_04b_weights_come_from_logarithms() -> None:
    """The weight that takes over is exactly 0 in float64."""
    exact, _ = _crossing(850.0, 3e5)
    assert np.exp(exact.k[1, 1] * exact.q[1].astype(np.float64) - exact.k[0, 0] * exact.q[0].astype(np.float64)) == 0.0
    assert bounded(exact, Profile(q_format="bfloat16")).out_error[0] > 1.9


def test_attack_05_soft_cap_at_both_ends() -> None:
    """Operand rounding moves a cancelling dot across the cap's bend, where its slope at t says nothing."""
    size, cap = 4000.0, 30.0
    low, high = 1 + 2.0**-8, 1 + 3 * 2.0**-8
    k = f32([[size / low, (100.0 - size) / high], [0, 0]])
    exact = Row(f32([low, high]), k, f32([[1.0], [-1.0]]), soft_cap=cap)
    profile = Profile(q_format="bfloat16")
    result = emulated.online(Machine(operand=None), replace(exact, q=stored(exact.q, "bfloat16")))
    want = bounded(exact, profile)
    assert inside(result, want, profile)
    slope = 1 - np.tanh(100 / cap) ** 2
    by_slope = slope * 2 * size * 2.0**-8
    assert abs(result[1] - want.lse) > 2 * by_slope


@pytest.mark.parametrize("cap", [400.0, 1000.0])
def test_attack_06_tanh_errs_absolutely(cap: float) -> None:
    """1 - 2/(e^2x + 1) loses all relative accuracy near 0: the error is cap times a constant."""
    rng = np.random.default_rng(6)
    rows = [one_dim(0.05 * rng.standard_normal(2), [1, -1], soft_cap=cap) for _ in range(20)]
    results = [emulated.online(Machine(tanh="exp"), row) for row in rows]
    profile = Profile(tile=16, renormalises=True)
    assert all_inside(rows, results, profile)
    assert not all_inside(rows, results, replace(profile, tanh_error=0.0))


def test_attack_07_rescales_in_any_order() -> None:
    """A kernel may visit tiles so that the maximum rises at each, though it does not in the order of the keys."""
    rng = np.random.default_rng(7)
    scores = 8 * LN2 / 512 * rng.permutation(256)
    row = one_dim(scores, scores > scores.mean())
    profile = Profile(exp_error=9e-5, renormalises=True)
    kernel = partial(emulated.online, Machine(exp=emulated.exp_polynomial), row, tile=1)
    result = kernel(order=np.argsort(scores))
    assert inside(result, bounded(row, profile), profile)
    assert not inside(result, bounded(row, replace(profile, tile=256)), profile)


def test_attack_08_p_is_normalised_before_it_is_rounded() -> None:
    """64 equal keys, and 448 of weight 2^-26 that carry V = 1e3: float16 P loses these, before any division."""
    scores = np.where(np.arange(512) < 64, 0.0, -20 * LN2)
    row = one_dim(scores, np.where(scores < 0, 1e3, 0.0))
    profile = Profile(p_format="float16", tile=512)
    result = emulated.eager(Machine(p="float16"), row)
    assert inside(result, bounded(row, profile), profile)
    assert not inside(result, bounded(row, replace(profile, normalises_first=False)), profile)


def test_attack_09_products_underflow_in_float16(without: Callable[[str, Any], None]) -> None:
    """Every product of q.k is below float16's subnormals, and the scale is 100."""
    row = Row(np.full(64, 1.5e-4, np.float16), np.full((4, 64), 1.5e-4, np.float16), f32([[1], [2], [3], [4]]), 100.0)
    profile = Profile(qk_accumulator="float16", renormalises=True)
    result = emulated.online(Machine(qk=emulated.dot_half), row)
    assert inside(result, bounded(row, profile), profile)
    without("underflow", lambda format, profile: 0.0)
    assert not inside(result, bounded(row, profile), profile)


def test_attack_10_subnormals_are_flushed() -> None:
    """|v| around 2^-126; subnormal k times a huge q; subnormal q times a huge k."""
    profile = Profile(tile=16, renormalises=True)
    tiny_v = one_dim([0.0, 0.5], [[1e-38, 0.9e-38], [-0.7e-38, 0.8e-38]])
    tiny_k = Row(f32([1e38]), f32([[0.8e-38], [0.0]]), f32([[1.0], [-1.0]]))
    tiny_q = Row(f32([0.8e-38]), f32([[1e38], [0.0]]), f32([[1.0], [-1.0]]))
    for row in (tiny_v, tiny_k, tiny_q):
        result = emulated.online(Machine(flushes=True), row)
        assert inside(result, bounded(row, profile), profile)
        assert not inside(result, bounded(row, replace(profile, flushes_subnormals=False)), profile)


def test_attack_11_gradual_underflow_of_normalised_p(without: Callable[[str, Any], None]) -> None:
    """IEEE subnormal V times P = 1/n: each product loses half a subnormal, n of them."""
    row = one_dim(np.zeros(64), np.full(64, 2.0**-143))
    profile = Profile(flushes_subnormals=False)
    result = emulated.eager(Machine(pv=emulated.dot_sequential), replace(row, v=f32(row.v * f32(1.3))))
    row = replace(row, v=f32(row.v * f32(1.3)))
    assert inside(result, bounded(row, profile), profile)
    without("underflow", lambda format, profile: 0.0)
    assert not inside(result, bounded(row, profile), profile)


def test_attack_12_zero_point_folded_after_the_dot() -> None:
    """The kernel sums codes and zero points, whose magnitudes exceed |code - zero| by far."""
    rng = np.random.default_rng(12)
    worst = [0.0, 0.0]
    for _ in range(20):
        n, d = 32, 64
        k = Codes(rng.integers(118, 128, (n, d)).astype(np.int8), 123.0, 2.0**-4)
        v = Codes(rng.integers(118, 128, (n, 2)).astype(np.int8), 123.0, 2.0**-4)
        q = f32(rng.standard_normal(d) + 3)
        result = emulated.zero_folded(q, k, v, 0.125)
        profile = Profile(tile=n, renormalises=True)
        want = attention_bound(q, k.value, v.value, 0.125, profile, k_magnitude=k.magnitude, v_magnitude=v.magnitude)
        assert inside(result, want, profile)
        unfolded = ratios(result, attention_bound(q, k.value, v.value, 0.125, profile), profile)
        worst = [max(a, b) for a, b in zip(worst, unfolded, strict=True)]
    assert max(worst) > 1


def test_scales_of_a_cache_may_be_multiplied_with_anywhere() -> None:
    """int8 codes with a scale a token: multiplied first, in float32 or in float16, after the dot, or into P."""
    rng = np.random.default_rng(14)
    for _ in range(40):
        n, d = 24, 32
        k, v = (rng.integers(-128, 128, (n, width)).astype(np.int8) for width in (d, 3))
        of_k, of_v = (f32(rng.uniform(2.0**-8, 2.0**-4, n)) for _ in range(2))
        q = f32(rng.standard_normal(d))
        exact = [
            codes.astype(np.float64) * scale[:, None].astype(np.float64) for codes, scale in ((k, of_k), (v, of_v))
        ]
        for kernel, format in emulated.SCALED:
            profile = Profile(tile=n, renormalises=True, dequant_format=format)
            want = attention_bound(q, *exact, 0.5, profile, k_roundings=2, v_roundings=2)
            assert inside(kernel(q, k, of_k, v, of_v, 0.5), want, profile), kernel.__name__
        half = emulated.multiplied_in_half(q, k, of_k, v, of_v, 0.5)
        undeclared = attention_bound(q, *exact, 0.5, Profile(tile=n, renormalises=True), k_roundings=2, v_roundings=2)
        assert not inside(half, undeclared, Profile(tile=n, renormalises=True))


def test_attack_13_subnormal_v_is_rounded_to_bfloat16(without: Callable[[str, Any], None]) -> None:
    """A format has a least subnormal too: half of it is lost, whatever the relative error says."""
    row = one_dim([0.0, -1.0], [[1.4 * 2.0**-133], [1.3 * 2.0**-132]])
    profile = Profile(v_format="bfloat16", tile=2, renormalises=True, flushes_subnormals=False)
    result = emulated.online(Machine(operand="bfloat16"), row)
    assert inside(result, bounded(row, profile), profile)
    without("underflow", lambda format, profile: 0.0)
    assert not inside(result, bounded(row, profile), profile)


def test_attack_14_rounding_follows_the_computed_scores(without: Callable[[str, Any], None]) -> None:
    """Exact scores 0, computed ones -1000: the dot cancels, and lse is rounded where it was computed."""
    facts, evaluation = bound._facts, bound._evaluation_error

    def exact_facts(keys: Any, profile: Profile) -> Any:
        top = keys.log_weight.max(-1, keepdims=True)
        lse = top + np.log(np.exp(keys.log_weight - top).sum(-1, keepdims=True))
        return replace(facts(keys, profile), top=np.abs(top), lse_top=np.abs(lse))

    # float32 adds 2^34 + 1000 - 2^34 - 1000 from the left to -1000
    k = f32([2.0**34, 1000, -(2.0**34), -1000])
    rows = [Row(f32(np.ones(4)), np.tile(k, (n, 1)), f32(np.ones((n, 1)))) for n in range(2, 9)]
    results = [emulated.two_pass(Machine(qk=emulated.dot_sequential), row) for row in rows]
    assert all_inside(rows, results, Profile())
    without("_facts", exact_facts)
    without("_evaluation_error", lambda keys, *rest: evaluation(replace(keys, score_error=0 * keys.score), *rest))
    assert not all_inside(rows, results, Profile())


def test_attack_15_float16_exp_underflows(without: Callable[[str, Any], None]) -> None:
    """A softmax in float16 loses weights below 2^-25, without any P being stored."""
    row = one_dim(np.where(np.arange(64) < 1, 0.0, -18.0), np.where(np.arange(64) < 1, 0.0, 3e4))
    profile = Profile(score_format="float16", softmax_format="float16", exp_error=2.0**-11, log_error=2.0**-11, tile=64)
    result = emulated.eager_half(Machine(exp=emulated.exp_half, score="float16"), row)
    assert inside(result, bounded(row, profile), profile)
    real = bound.underflow
    without("underflow", lambda format, profile: real(format and "float32", profile))
    assert not inside(result, bounded(row, profile), profile)


def test_attack_16_float16_results_are_flushed(without: Callable[[str, Any], None]) -> None:
    """Hardware that flushes float16 subnormals flushes the result too."""
    row = one_dim([0.0, 0.0], [[2.0**-15], [2.0**-15]])
    profile = Profile(out_format="float16", flushes_small_subnormals=True)
    result = (np.float16([0.0]), emulated.online(Machine(), row)[1])
    assert inside(result, bounded(row, profile), profile)
    assert not inside(result, bounded(row, replace(profile, flushes_small_subnormals=False)), profile)


# --- each stage at its worst: what it declares is needed


def _needs(row: Row, result: Result, profile: Profile, **other: Any) -> None:
    """Inside under this profile, outside under one that declares a stage otherwise."""
    assert inside(result, bounded(row, profile), profile)
    assert not inside(result, bounded(row, replace(profile, **other)), profile)


def test_capped_scores_are_stored_again() -> None:
    """A saturated cap hides what was stored before it, and is itself stored."""
    row = one_dim([300.0], [1.0], soft_cap=29.93)
    profile = Profile(score_format="bfloat16", tile=16, renormalises=True)
    _needs(row, emulated.online(Machine(score="bfloat16"), row), profile, score_format=None)


def test_biased_scores_are_stored_again() -> None:
    """A small score plus a large bias rounds like the bias."""
    row = one_dim([2.0**-6], [1.0], bias=f32([-7.77]))
    profile = Profile(score_format="bfloat16", tile=16, renormalises=True)
    _needs(row, emulated.online(Machine(score="bfloat16"), row), profile, score_format=None)


def test_long_denominator() -> None:
    """4095 weights of 2^-25.5 vanish one by one beside a 1: the row is off by all of them."""
    row = one_dim(np.where(np.arange(4096) < 1, 0.0, -25.5 * LN2), np.arange(4096) < 1)
    profile = Profile(tile=4096, renormalises=True, sum_rounds_p=False)
    result = emulated.online(Machine(add=emulated.add_sequential), row, tile=4096)
    _needs(row, result, profile, pv_depth=16)


def test_long_sum_of_values() -> None:
    """The same in P.V, under a denominator that was added in pairs."""
    row = one_dim(np.where(np.arange(4096) < 1, 0.0, -25.5 * LN2), np.ones(4096))
    profile = Profile(tile=4096, renormalises=True, sum_rounds_p=False)
    _needs(row, emulated.eager(Machine(pv=emulated.dot_sequential), row), profile, pv_depth=16)


@pytest.mark.parametrize("stage", ["qk", "pv"])
def test_truncation_loses_an_ulp_a_step(stage: str) -> None:
    """Terms just below an ulp of the sum vanish one by one; rounding to nearest would have kept them."""
    terms = f32(np.where(np.arange(512) < 1, 1.0, 2.0**-23 * (1 - 2.0**-10)))
    truncating = partial(emulated.dot_truncating, block=1)
    plain = Profile(tile=512, renormalises=True, sum_rounds_p=False)
    if stage == "qk":
        row = Row(terms, f32(np.ones((1, 512))), f32([[1.0]]))
        result = emulated.online(Machine(qk=truncating), row)
    else:
        plain = replace(plain, softmax_format="float64")  # the denominator, 512 ones, is exact
        row = one_dim(np.zeros(512), 512 * terms)
        result = emulated.eager(Machine(pv=truncating), row)
    _needs(row, result, replace(plain, **{f"{stage}_truncates": True}), **{f"{stage}_truncates": False})


def test_flushed_p_is_missing_in_the_denominator() -> None:
    """float16 weights of 2^-14.5 are flushed: not in the sum of values, where V = 0, but in the denominator."""
    row = one_dim(np.where(np.arange(64) < 1, 0.0, -14.5 * LN2), np.arange(64) < 1)
    profile = Profile(p_format="float16", flushes_small_subnormals=True, tile=64, renormalises=True)
    result = emulated.online(Machine(p="float16", flushes_small=True, sums_p=True), row, tile=64)
    _needs(row, result, profile, flushes_small_subnormals=False)


def test_p_underflows_before_the_division() -> None:
    """The loss is divided by the denominator that there is, 1 here, not by the number of keys."""
    row = one_dim(np.where(np.arange(64) < 1, 0.0, -18.0), np.where(np.arange(64) < 1, 0.0, 3e4))
    profile = Profile(p_format="float16", normalises_first=False, tile=64, renormalises=True, sum_rounds_p=False)
    result = emulated.online(Machine(p="float16"), row, tile=64)
    _needs(row, result, profile, p_format="tfloat32")  # as fine as float16, without its underflow
    lost = abs(result[0][0] - bounded(row, profile).out[0])
    assert lost > 10 * 3e4 * 2.0**-25  # more than one key's share


def test_partial_results_underflow(without: Callable[[str, Any], None]) -> None:
    """float16 partials of 1e-6 keep three bits."""
    row = one_dim(np.zeros(8), np.full(8, 1.23e-6))
    profile = Profile(splits=4, partial_format="float16", renormalises=True)
    merge = partial(emulated.merge_sequential, partial="float16")
    result = emulated.split(Machine(), row, splits=4, merge=merge, partial="float16")
    assert inside(result, bounded(row, profile), profile)
    without("underflow", lambda format, profile: 0.0)
    assert not inside(result, bounded(row, profile), profile)


# --- real faults, on inputs where the bound has to see them


def _exact(row: Row) -> tuple[Any, Any]:
    """Attention in float64."""
    s = row.sm_scale * (row.k.astype(np.float64) @ row.q.astype(np.float64))
    p = np.exp(s - s.max())
    return p @ row.v.astype(np.float64) / p.sum(), s.max() + np.log(p.sum())


def _parts(row: Row, splits: int = 4) -> tuple[Any, Any]:
    parts = [_exact(replace(row, k=row.k[a], v=row.v[a])) for a in np.array_split(np.arange(len(row.k)), splits)]
    return np.stack([out for out, _ in parts]), np.stack([lse for _, lse in parts])


def _weights(row: Row) -> Any:
    s = row.sm_scale * (row.k @ row.q)
    return np.exp(s - s.max()) / np.exp(s - s.max()).sum()


def drops_a_key(row: Row) -> tuple[Any, Any]:
    keep = np.arange(len(row.k)) != np.argsort(_weights(row))[-2]
    return _exact(replace(row, k=row.k[keep], v=row.v[keep]))


def swaps_two_values(row: Row) -> tuple[Any, Any]:
    one, two = np.argsort(_weights(row))[[-1, 0]]
    v = row.v.copy()
    v[[one, two]] = v[[two, one]]
    return _exact(replace(row, v=v))


def reads_the_neighbours_value(row: Row) -> tuple[Any, Any]:
    v = row.v.copy()
    j = int(np.argmax(_weights(row)))
    v[j] = v[j - 1]
    return _exact(replace(row, v=v))


def zeroes_an_element_of_k(row: Row) -> tuple[Any, Any]:
    k = row.k.copy()
    k[np.argmax(_weights(row)), np.argmax(np.abs(row.q))] = 0
    return _exact(replace(row, k=k))


def scales_wrongly(row: Row) -> tuple[Any, Any]:
    return _exact(replace(row, sm_scale=1.05 * row.sm_scale))


def merges_base_two_as_base_e(row: Row) -> tuple[Any, Any]:
    outs, lses = _parts(row)
    weights = np.exp((lses - lses.max()) / LN2)
    return weights @ outs / weights.sum(), _exact(row)[1]


def adds_the_parts(row: Row) -> tuple[Any, Any]:
    return _parts(row)[0].sum(0), _exact(row)[1]


def averages_the_parts(row: Row) -> tuple[Any, Any]:
    return _parts(row)[0].mean(0), _exact(row)[1]


def forgets_to_rescale(row: Row) -> tuple[Any, Any]:
    """Each part keeps its own maximum, and the sums are added as if it were the same one."""
    s = (row.sm_scale * (row.k @ row.q)).astype(np.float64)
    acc, total = 0.0, 0.0
    for keys in np.array_split(np.arange(len(s)), 4):
        p = np.exp(s[keys] - s[keys].max())
        acc, total = acc + p @ row.v[keys], total + p.sum()
    return acc / total, _exact(row)[1]


def returns_lse_in_base_two(row: Row) -> tuple[Any, Any]:
    out, lse = _exact(row)
    return out, lse / LN2


def returns_the_sum_as_lse(row: Row) -> tuple[Any, Any]:
    out, lse = _exact(row)
    return out, lse + LN2


FAULTS = (
    drops_a_key,
    swaps_two_values,
    reads_the_neighbours_value,
    zeroes_an_element_of_k,
    scales_wrongly,
    merges_base_two_as_base_e,
    adds_the_parts,
    averages_the_parts,
    forgets_to_rescale,
    returns_lse_in_base_two,
    returns_the_sum_as_lse,
)

FLOAT32 = Profile(tile=16, renormalises=True, sum_rounds_p=False)
FLASH = replace(FLOAT32, p_format="bfloat16", qk_truncates=True, pv_truncates=True, out_format="bfloat16")
LOOSEST = Profile(q_format="tfloat32", k_format="tfloat32", p_format="bfloat16", splits=4, partial_format="bfloat16")


def _ordinary(seed: int) -> Row:
    rng = np.random.default_rng([22, seed])
    q, k, v = 3 * rng.standard_normal(16), rng.standard_normal((24, 16)), rng.standard_normal((24, 8))
    return Row(*(stored(a, "bfloat16") for a in (q, k, v)), sm_scale=0.25)


@pytest.mark.parametrize("profile", [FLOAT32, FLASH, LOOSEST], ids=["float32", "flash", "loosest"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_is_outside(fault: Callable[[Row], tuple[Any, Any]], profile: Profile) -> None:
    """The same rows admit exact attention, and no fault, whatever rounding is declared."""
    for row in map(_ordinary, range(8)):
        want = bounded(row, profile)
        out, lse = _exact(row)
        assert inside((stored(out, profile.out_format), f32(lse)), want, profile)
        out, lse = fault(row)
        assert not inside((stored(out, profile.out_format), f32(lse)), want, profile)


def test_float32_bound_sees_the_lightest_key() -> None:
    """With float32 throughout, the key of least weight is missed in out and in lse alike, by a wide margin."""
    for row in (replace(_ordinary(seed), sm_scale=0.0625) for seed in range(8)):
        keep = np.arange(24) != np.argmin(_weights(row))
        out, lse = _exact(replace(row, k=row.k[keep], v=row.v[keep]))
        assert min(ratios((out, lse), bounded(row, FLOAT32), FLOAT32)) > 3


# --- random campaign


def test_campaign_of_correct_kernels() -> None:
    """No correct kernel is ever outside; where P, operands or results are narrow, some come close."""
    worst: dict[str, list[float]] = {}
    for emulator in emulated.emulators():
        for kind, judged in numbered(emulator, 3 * len(KINDS), seed=0):
            assert judged.admitted, (emulator.name, kind, judged.ratios)
            seen = worst.get(emulator.name, [0.0, 0.0])
            worst[emulator.name] = [max(pair) for pair in zip(seen, judged.ratios.values(), strict=True)]
    assert len(worst) == len(list(emulated.emulators()))
    print(*(f"{name:32} out {out:.3f} lse {lse:.3f}" for name, (out, lse) in worst.items()), sep="\n")
    assert max(out for out, _ in worst.values()) > 0.7
    assert max(lse for _, lse in worst.values()) > 0.4
    assert min(max(both) for both in worst.values()) > 0.003


def test_campaign_of_product_quantisation() -> None:
    """A stored table of q . codeword is a relative error of each product."""
    rng = np.random.default_rng(5)
    for i in range(30):
        table = ("float16", "bfloat16", None)[i % 3]
        codebook = stored(rng.standard_normal((8, 16, 4)), "bfloat16")
        codes = rng.integers(16, size=(50, 8))
        k = codebook[np.arange(8), codes].reshape(50, 32)
        row = Row(f32(rng.standard_normal(32)), k, f32(rng.standard_normal((50, 4))), 0.25)
        profile = Profile(qk_error=FORMATS[table].unit if table else 0.0, tile=50, renormalises=True)
        assert inside(emulated.product_quantised(codebook, codes, row, table), bounded(row, profile), profile)


# --- the oracle


def _mp_attention(row: Row) -> tuple[list[Any], Any]:
    """Attention with 60 digits."""
    with mpmath.workdps(60):
        q = [mpmath.mpf(float(x)) for x in row.q]
        scores = []
        for key, bias in zip(row.k, np.broadcast_to(row.bias, len(row.k)), strict=True):
            t = mpmath.mpf(row.sm_scale) * mpmath.fsum(a * mpmath.mpf(float(b)) for a, b in zip(q, key, strict=True))
            s = row.soft_cap * mpmath.tanh(t / row.soft_cap) if row.soft_cap else t
            scores.append(s + mpmath.mpf(float(bias)))
        weights = [mpmath.exp(s - max(scores)) for s in scores]
        total = mpmath.fsum(weights)
        columns = row.v.T.astype(np.float64)
        outs = [mpmath.fdot(weights, [mpmath.mpf(float(x)) for x in column]) / total for column in columns]
        return outs, max(scores) + mpmath.log(total)


@pytest.mark.parametrize(
    "name",
    ["gauss", "cancelling v", "cancelling dot", "logits 1e3", "offset k", "heavy", "capped", "alibi", "subnormal v"],
)
def test_oracle_is_exact_enough(name: str) -> None:
    """float64 is within 1e-9 of the bound of a float32 kernel, and inside the bound of a float64 kernel."""
    float64 = dict.fromkeys(("qk_accumulator", "softmax_format", "pv_accumulator"), "float64")
    double = Profile(**float64, exp_error=2.0**-52, log_error=2.0**-52, tanh_error=2.0**-52)
    for seed in range(6):
        row = draw(name, np.random.default_rng([seed, *name.encode()]), "float32")
        outs, lse = _mp_attention(row)
        for profile, share in ((Profile(), 1e-9), (double, 1.0)):
            want = bounded(row, profile)
            for out, oracle, error in zip(outs, want.out, want.out_error, strict=True):
                assert abs(out - mpmath.mpf(float(oracle))) <= share * float(error)
            assert abs(lse - mpmath.mpf(float(want.lse))) <= share * float(want.lse_error)


# --- batches, live keys, sinks


def assert_same(one: Bounded, two: Bounded) -> None:
    """Equal shapes, and equal numbers to 1e-9 of the bound: BLAS may add in another order."""
    for value, error in (("out", "out_error"), ("lse", "lse_error")):
        bounds, others = getattr(one, error), getattr(two, error)
        assert bounds.shape == others.shape
        assert (np.abs(bounds - others) <= 1e-9 * bounds).all()
        dead = np.isneginf(getattr(one, value))
        assert (dead == np.isneginf(getattr(two, value))).all()
        difference = np.where(dead, 0, getattr(one, value)) - np.where(dead, 0, getattr(two, value))
        assert (np.abs(difference) <= 1e-9 * bounds).all()


def rows_of(whole: Bounded, index: tuple[int, ...]) -> Bounded:
    return Bounded(*(getattr(whole, name)[index] for name in ("out", "out_error", "lse", "lse_error")))


PROFILES = (
    Profile(),
    FLASH,
    LOOSEST,
    Profile(score_format="bfloat16", p_format="float16", normalises_first=False, max_lag=5.5, pv_depth=8, qk_depth=4),
    Profile(qk_error=1.0),  # so large that the hull of v is the bound
)


@pytest.mark.parametrize("profile", PROFILES)
def test_batch_is_row_by_row(profile: Profile) -> None:
    """Grouped heads share k and v by broadcasting; each row is as if alone."""
    rng = np.random.default_rng(30)
    q, k, v = rng.standard_normal((2, 3, 16)), rng.standard_normal((2, 1, 40, 16)), rng.standard_normal((2, 1, 40, 5))
    bias, sink = -rng.random((3, 40)), rng.standard_normal((2, 3))
    whole = attention_bound(q, k, v, 0.25, profile, bias=bias, sink=sink, soft_cap=20.0)
    assert whole.out.shape == (2, 3, 5)
    assert whole.lse.shape == (2, 3)
    for head, member in np.ndindex(2, 3):
        alone = attention_bound(
            q[head, member],
            k[head, 0],
            v[head, 0],
            0.25,
            profile,
            bias=bias[member],
            sink=sink[head, member],
            soft_cap=20.0,
        )
        assert_same(rows_of(whole, (head, member)), alone)


@pytest.mark.parametrize("profile", PROFILES)
def test_dropped_keys_take_no_part(profile: Profile) -> None:
    """bias -inf is a gather: NaN in a dropped key does not leak, counts are of live keys, each row drops its own."""
    rng = np.random.default_rng(31)
    q, k, v = rng.standard_normal((6, 8)), rng.standard_normal((6, 20, 8)), 100 + rng.standard_normal((6, 20, 4))
    bias = rng.standard_normal((6, 20))
    dropped = rng.random((6, 20)) < np.linspace(0, 0.9, 6)[:, None]
    dropped[4] = True
    k[dropped], v[dropped], bias[dropped] = np.nan, np.nan, -np.inf
    whole = attention_bound(q, k, v, 0.3, profile, bias=bias)
    for i in range(6):
        keep = ~dropped[i]
        alone = attention_bound(q[i], k[i, keep], v[i, keep], 0.3, profile, bias=bias[i, keep])
        assert_same(rows_of(whole, (i,)), alone)
    assert whole.lse[4] == -np.inf
    assert not whole.out[4].any()
    assert not whole.out_error[4].any()
    assert whole.lse_error[4] == 0.0


def test_nothing_to_attend_to() -> None:
    """No key at all: out 0, lse -inf, errors 0. With a sink: out 0, lse = sink, rounded."""
    q, k, v = np.ones((2, 3, 4)), np.ones((2, 1, 0, 4)), np.ones((2, 1, 0, 5))
    want = attention_bound(q, k, v, 1.0, Profile())
    assert want.out.shape == want.out_error.shape == (2, 3, 5)
    assert not want.out.any()
    assert not want.out_error.any()
    assert (want.lse == np.full((2, 3), -np.inf)).all()
    assert not want.lse_error.any()
    sunk = attention_bound(q, k, v, 1.0, Profile(), sink=np.full((2, 3), 0.7))
    assert not sunk.out.any()
    assert (sunk.lse == 0.7).all()
    assert (sunk.lse_error < 1e-5).all()


def test_sink_is_a_key_without_value() -> None:
    """The same as one more key whose dot gives the sink exactly, but for that dot's error."""
    rng = np.random.default_rng(32)
    q, k, v = rng.standard_normal(4), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    sunk = attention_bound(q, k, v, 1.0, Profile(), sink=0.5)
    biased = attention_bound(
        q, np.vstack([k, 0 * k[:1]]), np.vstack([v, 0 * v[:1]]), 1.0, Profile(), bias=[0.0] * 9 + [0.5]
    )
    assert (np.abs(sunk.out - biased.out) <= 1e-9 * biased.out_error).all()
    assert abs(sunk.lse - biased.lse) <= 1e-9 * biased.lse_error
    assert (sunk.out_error <= biased.out_error).all()


def test_live_nan_spoils_its_row_alone() -> None:
    """A NaN that is attended to makes its row NaN: nothing is admissible there, and other rows stand."""
    rng = np.random.default_rng(33)
    q, k, v = rng.standard_normal((2, 4)), rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 5, 3))
    v[1, 2] = np.nan
    want = attention_bound(q, k, v, 1.0, Profile())
    assert np.isfinite(want.out[0]).all()
    assert np.isfinite(want.out_error[0]).all()
    assert not admissible(np.zeros(3), want.out[1], want.out_error[1], "float32").any()


# --- merging partial results


Merge = Callable[[Machine, list[Result]], Result]
MERGES: dict[str, tuple[Merge, dict[str, Any]]] = {
    "divided": (emulated.merge_divided, {"merge_levels": 1, "renormalises": True}),
    "flash": (emulated.merge_flash, {"merge_levels": 1}),
    "sequential": (emulated.merge_sequential, {"renormalises": True}),
    "backward": (lambda machine, parts: emulated.merge_sequential(machine, parts[::-1]), {"renormalises": True}),
    "sequential flash": (partial(emulated.merge_sequential, merge=emulated.merge_flash), {}),
    "sequential bfloat16": (partial(emulated.merge_sequential, partial="bfloat16"), {"partial_format": "bfloat16"}),
    "tree": (emulated.merge_tree, {"merge_levels": 4, "renormalises": True}),
    "tree flash": (partial(emulated.merge_tree, merge=emulated.merge_flash), {"merge_levels": 4}),
}


def _partials(rng: np.random.Generator, num_parts: int, rows: int) -> tuple[Any, Any]:
    """Parts with lse up to 1e4, near each other or far apart; about a third empty, their outs NaN."""
    scale = rng.choice([1.0, 1e2, 1e4], (1, rows))
    lses = f32(
        scale * rng.standard_normal((1, rows)) + rng.choice([0.1, 3.0, 30.0]) * rng.standard_normal((num_parts, rows))
    )
    outs = f32(rng.standard_normal((num_parts, rows, 3)) + rng.choice([0.0, 100.0]))
    empty = rng.random((num_parts, rows)) < 0.3
    empty[:, 0] = True  # nothing anywhere
    empty[:, 1] = np.arange(num_parts) > 0  # one part alone
    outs[empty], lses[empty] = np.nan, -np.inf
    return outs, lses


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("machine", [Machine(), Machine(exp=emulated.exp_ex2)], ids=["libm", "ex2"])
def test_merges_of_partial_results(name: str, machine: Machine) -> None:
    """Any order of merging live parts is inside; a row without live parts is exactly out 0, lse -inf."""
    merge, declares = MERGES[name]
    profile = Profile(flushes_subnormals=False, **declares)
    rng = np.random.default_rng(40)
    for num_parts in (1, 2, 3, 5, 9, 16):
        outs, lses = _partials(rng, num_parts, 12)
        want = merge_bound(outs, lses, profile)
        assert want.out.shape == want.out_error.shape == (12, 3)
        assert want.lse.shape == want.lse_error.shape == (12,)
        for row in range(12):
            live = np.flatnonzero(np.isfinite(lses[:, row]))
            here = rows_of(want, (row,))
            if live.size == 0:
                assert (here.lse, here.lse_error) == (-np.inf, 0.0)
                assert inside((np.zeros(3), -np.inf), here, profile)
                assert not inside((np.zeros(3), -1e30), here, profile)
            else:
                result = merge(machine, [(outs[part, row], lses[part, row]) for part in live])
                assert inside(result, here, profile)


def test_faulty_merges_are_outside() -> None:
    """Adding outs, averaging them, base 2 taken for e, a part forgotten: none is inside, at any lse."""
    rng = np.random.default_rng(41)
    for centre in (0.0, -20.0, 1e3):
        lses = f32(centre + np.array([[0.0], [0.8], [-0.9], [1.5]]) + 0.1 * rng.standard_normal((4, 6)))
        outs = f32(rng.standard_normal((4, 6, 8)))
        want = merge_bound(outs, lses, Profile())
        near = lses - lses.max(0)
        for weights in (np.ones_like(lses), np.full_like(lses, 0.25), np.exp(near / LN2), np.exp(near * LN2)):
            share = weights if (weights == 1).all() else weights / weights.sum(0)
            out = f32((share[..., None] * outs).sum(0))
            assert not admissible(out, want.out, want.out_error, "float32").all(-1).any()
        forgotten = merge_bound(outs[:3], lses[:3], Profile())
        assert not admissible(f32(forgotten.lse), want.lse, want.lse_error, "float32").any()


def test_merge_reads_only_the_stages_it_has() -> None:
    """What a kernel declares of q . k, of stored scores and of P does not loosen its merges."""
    outs, lses = _partials(np.random.default_rng(42), 4, 6)
    plain = Profile(splits=4, partial_format="bfloat16")
    decode = replace(plain, q_format="bfloat16", score_format="bfloat16", p_format="bfloat16", tile=64, max_lag=5.5)
    decode = replace(decode, qk_error=2.0**-9, pv_error=2.0**-9)
    assert_same(merge_bound(outs, lses, plain), merge_bound(outs, lses, decode))


# --- the domain


def test_outside_domain_says_what_and_where() -> None:
    """The text names the quantity, how far it may reach, and the format."""
    q, k, v = np.full(64, 40.0), np.full((2, 64), 40.0), np.ones((2, 1))
    attention_bound(q, k, v, 0.125, Profile())
    with pytest.raises(
        OutsideDomain,
        match=r"^a score may reach 102400, more than 0\.5 of 65504, the range of float16: no error bound holds$",
    ):
        attention_bound(q, k, v, 0.125, Profile(qk_accumulator="float16"))


@pytest.mark.parametrize(
    ("what", "profile", "row"),
    [
        ("a score", Profile(score_format="float16"), one_dim([4e4, 0], [1, 1])),
        ("a score", Profile(), replace(one_dim([1e38, 0], [1, 1]), sm_scale=10.0)),
        ("a score", Profile(), Row(f32([1e20]), f32([[1e20]]), f32([[1]]))),
        ("an element of q", Profile(q_format="float16"), Row(f32([1e5]), f32([[1]]), f32([[1]]))),
        ("an element of k", Profile(k_format="float8_e4m3fn"), one_dim([500, 0], [1, 1])),
        ("an element of v", Profile(v_format="float16"), one_dim([0, 0], [1e5, 1])),
        ("an element of v", Profile(), one_dim([0, 0], [np.inf, 1])),
        ("a sum of weighted values", Profile(pv_accumulator="float16"), one_dim(np.zeros(400), np.full(400, 100.0))),
        ("a partial result", Profile(partial_format="float16"), one_dim([0, 0], [1e5, 1e5])),
        ("the lse of a partial result", Profile(partial_lse_format="float16", splits=2), one_dim([0, -7e4], [1, 1])),
    ],
)
def test_outside_domain(what: str, profile: Profile, row: Row) -> None:
    """Where a number may overflow there is no bound, and no verdict."""
    with pytest.raises(OutsideDomain, match=f"^{what} may reach"):
        bounded(row, profile)


def test_dropped_keys_are_not_in_the_domain() -> None:
    """A dropped key may hold anything, infinity included."""
    row = replace(one_dim([np.inf, 1], [np.inf, 1]), bias=np.array([-np.inf, 0.0]))
    assert bounded(row, Profile()).out[0] == 1.0


# --- rounding and the verdict


def _values(format: str) -> Any:
    """Every finite value of a format of at most 16 bits, ascending."""
    dtype = DTYPES[format]
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"uint{8 * dtype.itemsize}")
    values = bits.view(dtype).astype(np.float32)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("format", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_round_to_is_the_cast_exhaustively(format: str) -> None:
    """Every value, every midpoint between two, and the float32 neighbours of both, as ml_dtypes casts them."""
    values = _values(format)
    assert (round_to(values, format) == values).all()
    with np.errstate(over="ignore"):
        beyond = f32([values[-1] + (values[-1] - values[-2]) / 2])
        midpoints = f32(
            np.concatenate([(values[:-1].astype(np.float64) + values[1:]) / 2, beyond, -beyond, 4 * beyond])
        )
        points = np.concatenate(
            [midpoints, np.nextafter(midpoints, f32(np.inf)), np.nextafter(midpoints, f32(-np.inf))]
        )
        cast = points.astype(DTYPES[format]).astype(np.float32)
    rounded = round_to(points, format)
    cast = np.where(np.isnan(cast), np.copysign(np.inf, points), cast)  # float8_e4m3fn overflows to NaN
    assert (rounded == cast).all()
    assert (np.signbit(rounded) == np.signbit(cast)).all()


def test_round_to_float32_is_the_cast() -> None:
    """Random values of every exponent, and midpoints, which float64 holds exactly."""
    rng = np.random.default_rng(50)
    values = rng.integers(0, 0x7F7FFFFF, 20000, dtype=np.uint32).view(np.float32).astype(np.float64)
    above = np.nextafter(values.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    midpoints = np.where(np.isfinite(above), (values + above) / 2, values)
    points = np.concatenate(
        [values, midpoints, np.nextafter(midpoints, np.inf), np.nextafter(midpoints, 0), [3.5e38, 1e300]]
    )
    with np.errstate(over="ignore"):
        assert (round_to(points, "float32") == points.astype(np.float32)).all()
        assert (round_to(-points, "float32") == (-points).astype(np.float32)).all()


def test_round_to_tfloat32() -> None:
    """Eleven significant bits at float32's exponents, against a rounding of the bits."""
    rng = np.random.default_rng(51)
    bits = rng.integers(0x00800000, 0x7F000000, 20000, dtype=np.uint32)
    tie = (bits & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
    points = np.concatenate([bits, tie, tie + 1, tie - 1]).view(np.float32)
    assert (round_to(points, "tfloat32") == stored(points, "tfloat32")).all()


def test_round_to_leaves_what_it_should() -> None:
    """None and float64 round nothing; NaN, infinities and the sign of zero survive any format."""
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
    for format in (None, *FORMATS):
        rounded = round_to(special, format)
        assert np.array_equal(rounded, special, equal_nan=True)
        assert np.signbit(rounded[4])
    assert round_to(np.pi, None) == round_to(np.pi, "float64") == np.pi


def test_admissible_is_an_interval_of_rounded_ends() -> None:
    """Both ends are admissible, their neighbours outside are not; a tie rounds to even."""
    one = np.float64(1)
    ulp = float(ml_dtypes.finfo("bfloat16").eps)
    assert admissible(one, one, 0.0, "bfloat16")
    assert not admissible(one + ulp, one, ulp / 2, "bfloat16")  # 1 + ulp/2 is a tie, and 1 is even
    assert admissible(one + ulp, one, ulp / 2 * (1 + 1e-9), "bfloat16")
    assert admissible(one + 2 * ulp, one + ulp, ulp / 2, "bfloat16")  # the tie above an odd value
    assert not admissible(one + 3 * ulp, one + ulp, ulp / 2, "bfloat16")
    assert admissible(one - ulp / 2, one, ulp / 2, "bfloat16")
    assert not admissible(one - ulp, one, ulp / 2, "bfloat16")


def test_admissible_compares_classes() -> None:
    """-inf admits -inf alone; NaN is nothing's result; zeros are equal; an overflowing end admits infinity."""
    assert admissible(-np.inf, -np.inf, 0.0, "float32")
    assert not admissible([-3e38, 0.0, np.inf, np.nan], -np.inf, 0.0, "float32").any()
    assert not admissible(-np.inf, [0.0, -3e38], [1e30, 1e30], "float32").any()
    assert not admissible(np.nan, [0.0, 0.0, -np.inf], [1.0, np.inf, 0.0], "float32").any()
    assert not admissible(0.0, [np.nan, 0.0], [0.0, np.nan], "float32").any()
    assert admissible([-0.0, 0.0], [0.0, -0.0], 0.0, "float32").all()
    assert admissible([np.inf, 65504.0], 65500.0, 30.0, "float16").all()
    assert not admissible(np.inf, 65500.0, 10.0, "float16")
    assert admissible([-np.inf, 0.0, np.inf], 0.0, np.inf, "float32").all()
    assert not admissible(np.inf, -np.inf, np.inf, "float32")
