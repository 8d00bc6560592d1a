"""How far a correct kernel may be from exact attention, computed on the very input that it got.

Exact, per row:    t = sm_scale q.k,   s = cap(t) + bias,   p = softmax(s),   out = sum p v,   lse = log sum e^s.

A correct kernel, whatever its order of tiles, splits and merges, computes

    out' = (1 + eta) sum p e^delta (1 + gamma) v / sum p e^delta + underflow

    |delta| <= D   per key   what perturbs its exponent: dot, scale, cap, bias, exp, rescales, merges
    |gamma| <= G   per row   what rounds the term p v after the exponential: P, V, the sum, partial results
    |eta|   <= H   per row   what all terms share: the denominator, weights not divided by their own sum

Since sum p (v - out) = 0, exactly

    sum p e^delta v / sum p e^delta - out = sum p (e^delta - 1) (v - out) / sum p e^delta,

so a perturbation common to all keys cancels; and with e^-D <= e^delta <= e^D

    W = min( sum p (e^D - 1) |v - out| / sum p e^-D,  the farther end of v's hull )    bounds that difference,
    M = min( sum p e^D |v| / sum p e^-D,              max |v| )                        bounds the perturbed mean of |v|,
    E = (W + G M + underflow) (1 + H) + H |out|                                        bounds |out' - out|.

Sums of h terms cost h u in any order, without a second-order term (Jeannerod and Rump 2013; Lange and Rump 2017 for
truncation, where u doubles). Products and quotients cost a factor 1 + u each. A computed denominator of positive
terms lies within (1 + u)^h of the exact one, both ways.

Required of the kernel: exp(0) is exactly 1 (else each rescale of a finished accumulator costs an error, tiles without
live keys included). Not covered: a second pass that computes the scores in another order than the first and does not
divide by its own sum; outputs that saturate, or are converted by truncation.

Arrays have any leading axes `...`, one entry a row, which broadcast against each other. A row's own numbers keep a last
axis of 1, so that they meet keys [..., n] and dims [..., dv] alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kvconform.specs.dtypes import FORMATS
from kvconform.specs.profile import Profile

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

ORACLE_UNIT = 2.0**-53
"""Unit roundoff of float64: added to each unit of arithmetic, so that the oracle's own rounding is inside the bound."""

ORACLE_SLOP = 1e-13
"""Relative; pays for evaluating the bound, and the two ends of the verdict, in float64."""


class OutsideDomain(ValueError):
    """A number of this input may leave the range of a declared format, where no error bound holds."""


@dataclass(frozen=True)
class Bounded:
    """Exact attention, and how far a correct kernel may be from it before its results are rounded into their formats.

    out, out_error  float64 [..., dv]
    lse, lse_error  float64 [...]        natural logarithm
    terms           what out_error was added up from, where that was asked for
    """

    out: Floats
    out_error: Floats
    lse: Floats
    lse_error: Floats
    terms: Terms | None = None


def attention_bound(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    sm_scale: float,
    profile: Profile,
    *,
    bias: npt.ArrayLike = 0.0,
    sink: npt.ArrayLike | None = None,
    soft_cap: float = 0.0,
    k_magnitude: npt.ArrayLike | None = None,
    v_magnitude: npt.ArrayLike | None = None,
    k_roundings: int = 0,
    v_roundings: int = 0,
    keep_terms: bool = False,
) -> Bounded:
    """Bound the error of a correct kernel of this profile, for all rows at once.

    q            [..., d]
    k            [..., n, d]   exact keys: gathered through the page table, dequantised without rounding
    v            [..., n, dv]
    bias         [..., n]      added to the scores; -inf drops the key, whose k and v may then hold anything
    sink         [...]         score of one more key, whose value is zero
    soft_cap                   0: none; else s = soft_cap tanh(t / soft_cap), before the bias
    k_magnitude  like k        what the kernel really sums where a zero point is folded after the dot,
    v_magnitude  like v        |scale| (|code| + |zero|); default |k|, |v|
    k_roundings  of an element on its way from the cache, in dequant_format: its scale, the product, its zero, the
    v_roundings  sum, wherever they are folded in
    keep_terms   whether `terms` come back too; they are as large as v

    A row that attends to nothing: out 0, lse -inf, both errors 0.
    Grouped heads share keys by broadcasting: q [heads, group, d], k [heads, 1, n, d], v [heads, 1, n, dv].
    Raises OutsideDomain.
    """
    q, k, v, bias = (np.asarray(a, np.float64) for a in (q, k, v, bias))
    bias = np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (k.shape[-2],)))
    live = bias != -np.inf
    bias = np.where(live, bias, 0.0)
    k, v = _masked(k, live), _masked(v, live, more=int(sink is not None))  # the sink is one more key, its value zero
    k_size = np.abs(k) if k_magnitude is None else _masked(np.asarray(k_magnitude, np.float64), live)
    v_size = np.abs(v)
    if v_magnitude is not None:
        v_size = _masked(np.asarray(v_magnitude, np.float64), live, more=int(sink is not None))

    require_range("an element of v", v_size, profile.v_format or profile.pv_accumulator)
    score, score_error = _scored(q, k, k_size, sm_scale, profile, k_roundings)
    if soft_cap:
        score, score_error = _capped(score, score_error, soft_cap, profile)
    score, score_error = _biased(score, score_error, bias, profile)
    if sink is not None:  # its score is exact
        score, score_error, bias = _appended(score, sink), _appended(score_error, 0.0), _appended(bias, 0.0)
        live = _appended(live, True)

    rows = np.broadcast_shapes(score.shape[:-1], live.shape[:-1], v.shape[:-2])
    if score.shape[-1] == 0:
        nothing = np.zeros((*rows, v.shape[-1]))
        return Bounded(nothing, nothing, np.full(rows, -np.inf), np.zeros(rows))
    empty = ~live.any(-1, keepdims=True)  # such rows are computed as if their zeros were live, then overwritten
    keys = _Keys(score, score_error, bias, live | empty, v, v_size)
    depth = 0 if soft_cap else _dot_depth(q, profile)
    found = _bounded(keys, profile, depth, (k_roundings, v_roundings))
    return Bounded(
        out=np.where(empty, 0.0, found.out),
        out_error=np.where(empty, 0.0, found.out_error),
        lse=np.broadcast_to(np.where(empty, -np.inf, found.lse)[..., 0], rows),
        lse_error=np.broadcast_to(np.where(empty, 0.0, found.lse_error)[..., 0], rows),
        terms=found.terms if keep_terms else None,
    )


def merge_bound(outs: npt.ArrayLike, lses: npt.ArrayLike, profile: Profile) -> Bounded:
    """Bound the error of merging exact partial results: attention whose keys are the parts and whose scores their lse.

    outs  [num_parts, ..., dv]
    lses  [num_parts, ...]       natural logarithm; -inf marks an empty part, whose outs may hold anything

    Of the profile only those stages count that a merge has: softmax, accumulation, partial results, hardware, result.
    """
    outs, lses = np.asarray(outs, np.float64), np.asarray(lses, np.float64)
    num_parts = lses.shape[0]
    merging = replace(profile, q_format=None, k_format=None, v_format=None, score_format=None, p_format=None)
    merging = replace(merging, pv_error=0.0, tile=1, max_lag=0.0, splits=num_parts)
    no_q, no_k = np.zeros(1), np.zeros((num_parts, 1))
    return attention_bound(no_q, no_k, np.moveaxis(outs, 0, -2), 1.0, merging, bias=np.moveaxis(lses, 0, -1))


# --- what one operation loses


def unit(format: str | None) -> float:
    """Unit roundoff of a declared rounding; 0 where nothing is rounded."""
    return FORMATS[format].unit if format else 0.0


def arithmetic_unit(format: str, *, truncates: bool = False) -> float:
    """Relative error of one operation, the oracle's included; truncation doubles it."""
    return unit(format) * (1 + truncates) + ORACLE_UNIT


def flushed(format: str, profile: Profile) -> float:
    """What flushing to zero may lose; 0 where the format's subnormals are kept."""
    wide = FORMATS[format].min_exp == FORMATS["float32"].min_exp  # float32, tfloat32, bfloat16
    flushes = profile.flushes_subnormals if wide else profile.flushes_small_subnormals
    return FORMATS[format].least_normal if flushes else 0.0


def underflow(format: str | None, profile: Profile) -> float:
    """Greatest absolute error of a result that underflows: half a subnormal, or all of it where it is flushed."""
    return max(flushed(format, profile), FORMATS[format].half_subnormal) if format else 0.0


def operand_underflow(format: str | None, profile: Profile) -> float:
    """The same for an operand: re-rounded into a format, or flushed as it is read."""
    return underflow(format, profile) if format else flushed("float32", profile)


def require_range(what: str, magnitude: Floats, format: str | None, share: float = 1.0) -> None:
    """Raise unless `magnitude` stays within that share of the format's range."""
    greatest = float(magnitude.max(initial=0.0))
    if format and greatest > share * FORMATS[format].largest:
        raise OutsideDomain(
            f"{what} may reach {greatest:.6g}, more than {share:g} of {FORMATS[format].largest:.6g}, "
            f"the range of {format}: no error bound holds"
        )


# --- scores: t, s and their error D_s


def _scored(
    q: Floats, k: Floats, k_size: Floats, sm_scale: float, profile: Profile, roundings: int
) -> tuple[Floats, Floats]:
    """t = sm_scale q.k and its error, [..., n] each.

    Relative to sum |q||k|: operands, products, a sum of depth + 1 roundings, and 4 roundings of softmax arithmetic
    (the constant sm_scale, the product with it, the same two for a change of base). Absolute: what underflows.
    """
    scale, upscale = abs(sm_scale), max(1.0, abs(sm_scale))  # the scale may come before the dot or after it
    score = sm_scale * np.matmul(k, q[..., None])[..., 0]
    size = np.matmul(k_size, np.abs(q)[..., None])[..., 0]
    require_range("an element of q", np.abs(q), profile.q_format or profile.qk_accumulator)
    require_range("an element of k", k_size, profile.k_format or profile.qk_accumulator)
    require_range("a product in the table", size, profile.table_format)
    for format in (profile.qk_accumulator, profile.score_format, profile.softmax_format):
        require_range("a score", upscale * size, format, share=0.5)

    depth = _dot_depth(q, profile)
    operands = (1 + unit(profile.q_format)) * (1 + unit(profile.k_format)) * (1 + _dequantised(roundings, profile))
    operands *= 1 + unit(profile.table_format)  # a product from a table has its rounding, and what underflows there
    relative = (1 + profile.qk_error) * operands * (
        1 + (depth + 1) * arithmetic_unit(profile.qk_accumulator, truncates=profile.qk_truncates)
    ) * (1 + 4 * arithmetic_unit(profile.softmax_format)) - 1
    lost = (
        q.shape[-1] * (underflow(profile.qk_accumulator, profile) + underflow(profile.table_format, profile))
        + operand_underflow(profile.q_format, profile) * k_size.sum(-1)
        + (operand_underflow(profile.k_format, profile) + _dequant_underflow(roundings, profile))
        * np.abs(q).sum(-1)[..., None]
    )
    # twice what is lost: the losses meet each other and are rounded too
    error = relative * scale * size + 2 * upscale * lost + underflow(profile.softmax_format, profile)
    if profile.score_format:  # stored before or after the scale
        error = error + unit(profile.score_format) * (np.abs(score) + error)
        error = error + upscale * underflow(profile.score_format, profile)
    return score, error


def _dequantised(roundings: int, profile: Profile) -> float:
    """What so many roundings of an operand on its way from the cache cost, relative to its size."""
    return float((1 + arithmetic_unit(profile.dequant_format)) ** roundings - 1)


def _dequant_underflow(roundings: int, profile: Profile) -> float:
    """What it may lose by underflow; scales and zeros themselves are normal numbers, or 0."""
    return roundings * underflow(profile.dequant_format, profile)


def _dot_depth(q: Floats, profile: Profile) -> int:
    """h1, longest chain of additions of a dot."""
    return q.shape[-1] if profile.qk_depth is None else profile.qk_depth


def _capped(score: Floats, error: Floats, soft_cap: float, profile: Profile) -> tuple[Floats, Floats]:
    """The cap is monotone: its values at both ends of the score's interval bound it, however large the error is.

    tanh errs absolutely, on [-1, 1]; quotient, argument, product and a spare round relative to the computed result.
    """

    def cap(x: Floats) -> Floats:
        return soft_cap * np.tanh(x / soft_cap)

    capped = cap(score)
    error = np.maximum(cap(score + error) - capped, capped - cap(score - error)) + profile.tanh_error * abs(soft_cap)
    error = error + 4 * arithmetic_unit(profile.softmax_format) * (np.abs(capped) + error)
    if profile.score_format:
        error = error + unit(profile.score_format) * (np.abs(capped) + error)
        error = error + underflow(profile.score_format, profile)
    return capped, error


def _biased(score: Floats, error: Floats, bias: Floats, profile: Profile) -> tuple[Floats, Floats]:
    """A stored sum rounds score and bias into the format; the arithmetic of the sum is in the evaluation error.

    Where the bias is 0 the sum is the score, which was stored before.
    """
    score = score + bias
    stored = unit(profile.score_format) * (np.abs(score) + np.abs(bias) + error)
    return score, error + np.where(bias == 0.0, 0.0, stored)


def _appended(a: npt.NDArray[Scalar], last: npt.ArrayLike) -> npt.NDArray[Scalar]:
    """One more key: [..., n] and [...] -> [..., n + 1]."""
    rows = np.broadcast_shapes(a.shape[:-1], np.shape(last))
    one = np.broadcast_to(np.asarray(last, a.dtype), rows)[..., None]
    return np.concatenate([np.broadcast_to(a, (*rows, a.shape[-1])), one], axis=-1)


# --- a row: exponent error D, term error G, common factor H, result E


@dataclass(frozen=True)
class _Keys:
    """Every key of every row, the sink included: score, score_error, bias, live [..., n]; v, v_size [..., n, dv]."""

    score: Floats
    score_error: Floats
    bias: Floats
    live: Bools
    v: Floats
    v_size: Floats

    @property
    def log_weight(self) -> Floats:
        """The score; -inf for a key that takes no part."""
        return np.where(self.live, self.score, -np.inf)


@dataclass(frozen=True)
class _Facts:
    """What scores and profile make of a row, [..., 1] each; "may" is within the score errors.

    count      live keys
    depth      h, longest chain of additions over keys
    rescales   T, how often an accumulator may be multiplied by exp(old maximum - new maximum), in any order of tiles
    levels     merges that one partial goes through
    u          unit roundoff of softmax arithmetic
    call       error of one exp and one log
    top        greatest magnitude that the computed maximum may have
    lse_top    greatest magnitude that the computed lse may have
    least      least denominator that there may be, in units of the greatest weight
    most       greatest denominator that there may be, in the same units
    """

    count: Floats
    depth: Floats
    rescales: Floats
    levels: int
    u: float
    call: Floats
    top: Floats
    lse_top: Floats
    least: Floats
    most: Floats


def _facts(keys: _Keys, profile: Profile) -> _Facts:
    count = keys.live.sum(-1, keepdims=True).astype(np.float64)
    levels = profile.splits if profile.merge_levels is None else profile.merge_levels
    low, high = keys.log_weight - keys.score_error, keys.log_weight + keys.score_error
    top_low, top_high = low.max(-1, keepdims=True), high.max(-1, keepdims=True)
    lse_low, lse_high = _log_sum_exp(low), _log_sum_exp(high)
    flushed_weights = count * _weight_underflow(profile) * np.exp(profile.max_lag)
    return _Facts(
        count=count,
        depth=count if profile.pv_depth is None else np.full_like(count, profile.pv_depth),
        rescales=np.minimum(count, np.ceil(count / profile.tile) + 1),
        levels=0 if profile.splits == 1 else levels,
        u=arithmetic_unit(profile.softmax_format),
        call=profile.exp_error + profile.log_error * (1 + np.log(count)),
        top=np.maximum(np.abs(top_low), np.abs(top_high)),
        lse_top=np.maximum(np.abs(lse_low), np.abs(lse_high)),
        least=np.maximum(1.0, np.exp(lse_low - top_high) - flushed_weights),
        most=np.minimum(count, np.exp(np.minimum(lse_high - top_low, 700.0))),
    )


@dataclass(frozen=True)
class Terms:
    """What E was added up from, for whoever adds it up in another way (oracles/screen.py).

    dequantised   what the way from the cache costs an element of k, and of v
    dot_depth   h1; 0 where a cap lies between the dot and the score
    depth, rescales, levels   h, T [..., 1] and levels, as in `_Facts`
    score_error     D_s [..., n];  exponent_error: D = D_s + D_e
    grown           p e^D / sum p e^-D [..., n]
    off             |v - out| [..., n, dv]; 0 for a key that takes no part
    mean_size       M [..., dv]
    lost            underflow, and what evaluating the bound in float64 costs [..., dv]
    common          log (1 + H) [..., 1]
    """

    dot_depth: int
    dequantised: tuple[float, float]
    depth: Floats
    rescales: Floats
    levels: int
    score_error: Floats
    exponent_error: Floats
    grown: Floats
    off: Floats
    mean_size: Floats
    lost: Floats
    common: Floats


def _bounded(keys: _Keys, profile: Profile, dot_depth: int, roundings: tuple[int, int]) -> Bounded:
    """E and E_lse; lse and lse_error keep a last axis of 1."""
    top = keys.log_weight.max(-1, keepdims=True)
    weight = np.exp(keys.log_weight - top)
    total = weight.sum(-1, keepdims=True)
    out, lse = _weighed(weight / total, keys.v), top + np.log(total)
    log_p = keys.log_weight - top - np.log(total)  # not the log of p, which underflows where p e^D need not

    facts = _facts(keys, profile)
    evaluation_error = _evaluation_error(keys, facts, profile)
    exponent_error = keys.score_error + evaluation_error
    lse_rounding = _lse_rounding(facts, profile)
    sum_error = _sum_error(facts, profile)
    common = sum_error
    if not profile.renormalises:
        common = sum_error + lse_rounding + 2 * _drift(log_p, keys, evaluation_error)
    row_error = np.expm1(np.minimum(common, 50.0))  # e^50 says nothing already
    of_k, of_v = (_dequantised(count, profile) for count in roundings)
    term_error = (1 + _term_error(facts, profile)) * (1 + of_v) - 1

    # p e^D / sum p e^-D, cut at e^200, where the hull and max |v| have long taken over
    grown = np.exp(np.minimum(log_p + exponent_error - _log_sum_exp(log_p - exponent_error), 200.0))
    off = keys.v - out[..., None, :]
    np.abs(off, out=off)
    if not keys.live.all():
        np.copyto(off, 0.0, where=~keys.live[..., None])
    hull = off.max(-2)
    shift = np.minimum(_weighed(grown * -np.expm1(-exponent_error), off), hull)
    largest = keys.v_size.max(-2)
    mean_size = np.minimum(_weighed(grown, keys.v_size), largest)
    _require_range(keys, facts, mean_size, profile)
    lost = _lost(keys, facts, np.abs(out) + shift, term_error, profile)
    lost = lost + _dequant_underflow(roundings[1], profile) * (1 + term_error)
    lse_lost = facts.count * _weight_underflow(profile) * _weight_scale(facts, profile)

    return Bounded(
        out=out,
        out_error=(shift + term_error * mean_size + lost) * (1 + row_error)
        + row_error * np.abs(out)
        + ORACLE_SLOP * largest,
        lse=lse,
        lse_error=_log_sum_exp(log_p + exponent_error)
        + sum_error
        + lse_rounding
        + lse_lost
        + ORACLE_SLOP * (1 + np.abs(lse)),
        terms=Terms(
            dot_depth=dot_depth,
            dequantised=(of_k, of_v),
            depth=facts.depth,
            rescales=facts.rescales,
            levels=facts.levels,
            score_error=keys.score_error,
            exponent_error=exponent_error,
            grown=grown,
            off=off,
            mean_size=mean_size,
            lost=lost + ORACLE_SLOP * largest,
            common=common,
        ),
    )


def _evaluation_error(keys: _Keys, facts: _Facts, profile: Profile) -> Floats:
    """D_e: what evaluating the exponentials adds to the score error of a key.

    Each level takes one exp and one log, and rounds the numbers of its argument 6 times: bias and its product,
    difference, the two roundings of a change of base, the lse. Differences of running maxima telescope. Each rescale
    is one more exp and one product.
    """
    argument = np.abs(keys.score) + keys.score_error + np.abs(keys.bias) + facts.top
    argument = argument + np.log(facts.count) + profile.max_lag + 1
    level = 6 * facts.u * argument + facts.call
    stored = unit(profile.partial_lse_format) * argument + underflow(profile.partial_lse_format, profile)
    return (1 + facts.levels) * level + facts.levels * stored + facts.rescales * (profile.exp_error + facts.u)


def _lse_rounding(facts: _Facts, profile: Profile) -> Floats:
    """U: one lse as a number, rounded at every level; it is common to all keys, and nothing cancels it."""
    argument = facts.top + facts.lse_top + np.log(facts.count) + profile.max_lag + 1
    stored = unit(profile.partial_lse_format) * argument + underflow(profile.partial_lse_format, profile)
    return (1 + facts.levels) * (6 * facts.u * argument + facts.call) + facts.levels * stored


def _sum_error(facts: _Facts, profile: Profile) -> Floats:
    """H_l: the denominator as a sum of positive terms, its rescales, its merges, a quotient; of rounded P, perhaps."""
    roundings = facts.depth + facts.rescales + profile.splits + 4
    return roundings * facts.u + (unit(profile.p_format) if profile.sum_rounds_p else 0.0)


def _drift(log_p: Floats, keys: _Keys, evaluation_error: Floats) -> Floats:
    """log of the mean of e^D_e under any weights p e^delta that the score errors allow.

    Weights exp(s - lse) and the sum inside lse are evaluated apart, from the same scores: the score errors cancel
    between them and two such means remain. A mean is at most 1 + sum p e^D_s (e^D_e - 1) / sum p e^-D_s, and at most
    the greatest e^D_e.
    """
    log_growth = log_p + keys.score_error - _log_sum_exp(log_p - keys.score_error)
    log_expm1 = evaluation_error + np.log(-np.expm1(-evaluation_error))
    mean = np.logaddexp(0.0, _log_sum_exp(log_growth + log_expm1))
    drift: Floats = np.minimum(mean, np.where(keys.live, evaluation_error, 0.0).max(-1, keepdims=True))
    return drift


def _term_error(facts: _Facts, profile: Profile) -> Floats:
    """G: the sum over keys with its products, its rescales, P, V, and what each merge does to a partial and stores."""
    u = arithmetic_unit(profile.pv_accumulator, truncates=profile.pv_truncates)
    factors = (
        facts.rescales * u
        + unit(profile.p_format)
        + unit(profile.v_format)
        + profile.pv_error
        + (profile.splits + 4 * facts.levels) * facts.u
        + (1 + facts.levels) * unit(profile.partial_format)
    )
    return (1 + (facts.depth + 2) * u) * np.exp(factors) - 1


def _weight_underflow(profile: Profile) -> float:
    """What one weight of the denominator may lose, in units of the greatest weight."""
    rounded = underflow(profile.p_format, profile) / profile.p_scale if profile.sum_rounds_p else 0.0
    return underflow(profile.softmax_format, profile) + rounded


def _weight_scale(facts: _Facts, profile: Profile) -> Floats:
    """From units of a weight that underflows to units of p: e^max_lag; 1 / denominator if it surely divides last."""
    scale: Floats = np.exp(profile.max_lag) / (1.0 if profile.normalises_first else facts.least)
    return scale


def _lost(keys: _Keys, facts: _Facts, mean: Floats, term_error: Floats, profile: Profile) -> Floats:
    """Underflow of V as an operand, of exp and P, of products and sums, of partials, of quotient and result."""
    v_sum = keys.v_size.sum(-2)
    weight = underflow(profile.softmax_format, profile)
    p = underflow(profile.p_format, profile) / profile.p_scale
    in_denominator = facts.count * _weight_underflow(profile) * mean
    sums = (2 * facts.count + facts.rescales) * underflow(profile.pv_accumulator, profile)
    lost: Floats = (
        operand_underflow(profile.v_format, profile) * (1 + term_error)
        + _weight_scale(facts, profile) * ((2 * weight + p) * v_sum + in_denominator + sums)
        + (profile.splits + facts.levels) * underflow(profile.partial_format or profile.softmax_format, profile)
        + 4 * weight
        + flushed(profile.out_format, profile)
    )
    return lost


def _require_range(keys: _Keys, facts: _Facts, mean_size: Floats, profile: Profile) -> None:
    """Raise where weighted sums or partial results may overflow."""
    sums = np.exp(profile.max_lag) * facts.most * mean_size
    require_range("a sum of weighted values", sums, profile.pv_accumulator, share=0.5)
    require_range("a partial result", mean_size, profile.partial_format)
    if profile.partial_lse_format and facts.levels:
        scores = np.where(keys.live, np.abs(keys.log_weight) + keys.score_error, 0.0).max(-1, keepdims=True)
        largest = scores + np.log(np.maximum(facts.count, 1)) + profile.max_lag
        require_range("the lse of a partial result", largest, profile.partial_lse_format)


def _masked(values: Floats, live: Bools, more: int = 0) -> Floats:
    """[..., n, dv] with 0 for the keys that take no part, and of so many more keys behind them."""
    if live.all() and not more:
        return values
    *rows, n, dv = np.broadcast_shapes(values.shape, (*live.shape, 1))
    masked = np.zeros((*rows, n + more, dv))
    np.copyto(masked[..., :n, :], values, where=live[..., None])
    return masked


def _weighed(weights: Floats, values: Floats) -> Floats:
    """Sum over keys: [..., n] and [..., n, dv] -> [..., dv]."""
    summed: Floats = np.matmul(weights[..., None, :], values)[..., 0, :]
    return summed


def _log_sum_exp(x: Floats) -> Floats:
    """log sum e^x over keys, the axis kept; at least one of them is finite."""
    top = x.max(-1, keepdims=True)
    log_sum: Floats = top + np.log(np.exp(x - top).sum(-1, keepdims=True))
    return log_sum
