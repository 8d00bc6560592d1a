"""How far chance lets a correct kernel's out be from exact attention: a screen of generated inputs, never a verdict.

The bound (oracles/bound.py) lets everything conspire that may err. On contents that are drawn it does not, and a fault
that hides below the bound may show above what is left. The bound's stages are added up anew, with
R^2 = sum p^2 (v - out)^2 and S = |out| + lam R, which no partial sum of p v exceeds by chance:

    E_screen = (W + S (u_p + u_v + pv_error + chain + partials) + underflow) (1 + H) + H |out|        never more than E
    W        = lam sqrt( sum p^2 (e^D - 1)^2 (v - out)^2 )
    chain    = lam sqrt(h) u instead of h u, here, in D and in H

Two things are assumed that the bound does not need. V is drawn apart from q and K. So what errs in weights (dot, exp,
rescales, P; ties or not, of one sign or not) knows nothing of V, and what it does to out adds up over keys like a
random walk; V's own rounding is drawn with V. That is certain of contents that are hashed, and of no others. And the h
roundings of a chain of additions are mean independent (Higham and Mary 2019). That is a model, real roundings are not
random. Where h u reaches 1 whole terms are rounded off, and sums that truncate lean to one side: there they add up as
in the bound.

By Hoeffding a sum is more than lam times the root of its squares with a chance of at most 2 e^(-lam^2 / 2). lam follows
from how many sums are looked at (`multiple`), so that where both hold a correct kernel is flagged in one draw of 1000
at most. What is flagged is drawn again with other seeds (`draws_again`); flagged in most of them, which chance manages
once in 10^9, it is worth a label. lse is not screened: errors that keys share do not cancel there, and exp errs alike
on like numbers.
"""

from __future__ import annotations

from itertools import count
from math import ceil, comb, log, sqrt

import numpy as np

from kvconform.oracles.bound import Bounded, Floats, Terms, arithmetic_unit, unit
from kvconform.specs.profile import Profile

ONE_DRAW = 1e-3
"""Chance that a correct kernel is flagged in one draw, at most."""

ONE_LABEL = 1e-9
"""Chance that a correct kernel which was flagged is flagged in most draws after that, at most."""


def multiple(elements: int, keys: int) -> float:
    """lam for so many elements of out, each of which rests on one sum W and on the partial sums of p v, 2 a key."""
    return sqrt(2 * log(2 * max(1, elements) * (1 + 2 * keys) / ONE_DRAW))


def draws_again() -> tuple[int, int]:
    """How many fresh draws a flag asks for, and how many are most of them: the least odd number that suffices."""
    return next((n, ceil(n / 2)) for n in count(1, 2) if _at_least(ceil(n / 2), n) <= ONE_LABEL)


def _at_least(k: int, n: int) -> float:
    """Chance of k flags or more in n draws."""
    return sum(comb(n, i) * ONE_DRAW**i * (1 - ONE_DRAW) ** (n - i) for i in range(k, n + 1))


def out_error(bounded: Bounded, profile: Profile, lam: float) -> Floats:
    """E_screen [..., dv] of a bound that kept its terms."""
    terms = bounded.terms
    if terms is None:
        return bounded.out_error
    out, u = np.abs(bounded.out), arithmetic_unit(profile.softmax_format)
    weights = np.stack([terms.grown * _growth(terms, profile, lam), terms.grown], axis=-2)
    walked = lam * np.sqrt(np.matmul(weights**2, terms.off**2))
    shift, spread = walked[..., 0, :], walked[..., 1, :]
    partial_sum = np.minimum(terms.mean_size, out + spread)

    u_pv = arithmetic_unit(profile.pv_accumulator, truncates=profile.pv_truncates)
    chain = _chain(terms.depth + 2 + terms.rescales, u_pv, lam, truncates=profile.pv_truncates)
    # the sizes of the splits' results add up to sqrt(splits) S, since their R^2 add up to R^2
    partials = (profile.splits + 4 * terms.levels) * u + (1 + terms.levels) * unit(profile.partial_format)
    of_v = unit(profile.v_format) + profile.pv_error + terms.dequantised[1]
    once = np.expm1(unit(profile.p_format) + of_v + chain + sqrt(profile.splits) * partials)

    roundings = terms.depth + terms.rescales
    common = terms.common - (roundings * u - _chain(roundings, u, lam))
    shared = np.expm1(np.minimum(common, 50.0))
    error = (shift + once * partial_sum + terms.lost) * (1 + shared) + shared * out
    narrow: Floats = np.minimum(error, bounded.out_error)
    return narrow


def _chain(roundings: Floats, u: float, lam: float, *, truncates: bool = False) -> Floats:
    """What so many roundings of one sum come to, in units of its greatest partial sum: u each is the worst."""
    random = (roundings * u < 1) & (not truncates)
    chain: Floats = u * np.where(random, np.minimum(roundings, lam * np.sqrt(roundings)), roundings)
    return chain


def _growth(terms: Terms, profile: Profile, lam: float) -> Floats:
    """1 - e^-D of each key [..., n], D with the chain of the dot as it comes to by chance."""
    if profile.score_format or not terms.dot_depth:  # rounded once more, which is most of it
        return -np.expm1(-terms.exponent_error)
    u = arithmetic_unit(profile.qk_accumulator, truncates=profile.qk_truncates)
    others = profile.qk_error + unit(profile.q_format) + unit(profile.k_format) + terms.dequantised[0]
    others += 4 * arithmetic_unit(profile.softmax_format)
    roundings = np.asarray(terms.dot_depth + 1.0)
    share = (others + _chain(roundings, u, lam, truncates=profile.qk_truncates)) / (others + roundings * u)
    growth: Floats = -np.expm1(-(terms.exponent_error - (1 - share) * terms.score_error))
    return growth
