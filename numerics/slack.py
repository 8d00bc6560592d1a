"""Where the slack of a bound comes from: the share that each stage of the arithmetic has in it.

A stage's share is what the bound loses when that stage alone is computed without error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvconform.specs.profile import Profile

WIDE = 10.0
"""A worst case this many times below the bound needs a reason."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    exact   the profile's fields that make it exact
    why     why real kernels stay far below what it may cost
    """

    exact: Mapping[str, Any]
    why: str


EXACT = {"qk_accumulator": "float64", "qk_truncates": False, "qk_error": 0.0}

STAGES: dict[str, Stage] = {
    "operands": Stage(
        dict.fromkeys(("q_format", "k_format", "v_format")),
        "every operand may be half an ulp off, all of them in the direction that hurts",
    ),
    "dot": Stage(
        EXACT,
        "head_dim roundings of one sign; libraries add in blocks, and signs mix",
    ),
    "stored scores": Stage(
        {"score_format": None}, "every score may be half an ulp off, those of heavy keys against all others"
    ),
    "cap": Stage({"tanh_error": 0.0}, "tanh may err by 2^-21 of the cap, which libraries do not"),
    "exponent": Stage(
        {"exp_error": 0.0, "log_error": 0.0, "tile": 2**31},
        "one error of exp a rescale, in an order in which the maximum rises at every tile; few do, and exp is better "
        "than declared",
    ),
    "softmax format": Stage(
        {"softmax_format": "float64"},
        "scores, maxima and lse are rounded up to 6 times at their full magnitude, and the denominator is summed in "
        "the worst order",
    ),
    "P": Stage({"p_format": None}, "every weight may be half an ulp off, with the sign of its value"),
    "sum of values": Stage(
        {"pv_accumulator": "float64", "pv_truncates": False, "pv_error": 0.0},
        "one rounding a key, all of one sign, at the size of the whole sum; libraries add in blocks, and signs mix",
    ),
    "partial results": Stage(
        {"partial_format": None}, "each merge stores its result, and may err by half an ulp again"
    ),
    "splits": Stage({"splits": 1}, "each level of merges rounds lse and weights once more, all in one direction"),
    "undivided weights": Stage(
        {"renormalises": True}, "the rounding of lse, at its full magnitude, multiplies the whole output"
    ),
    "subnormals": Stage(
        {"flushes_subnormals": False, "flushes_small_subnormals": False},
        "every key may lose a whole subnormal, though most numbers are far from there",
    ),
}
"""Stages in the order of the kernel."""


def stages_of(profile: Profile, bound: Callable[[Profile], float], half_ulp: float) -> dict[str, float]:
    """Stage -> its share of bound + half an ulp; `result` is the half ulp's."""
    whole = bound(profile) + half_ulp
    if not whole:
        return {}
    shares = {
        name: (whole - half_ulp - bound(replace(profile, **stage.exact))) / whole for name, stage in STAGES.items()
    }
    return {**shares, "result": half_ulp / whole}


def greatest(stages: Mapping[str, float]) -> str:
    """The stage of the greatest share."""
    return max(stages, key=lambda name: stages[name])
