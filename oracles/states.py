"""Merging partial attention results: log-sum-exp in float64, with the error of the declared profile."""

from __future__ import annotations

import numpy as np

from kvconform.oracles.bound import merge_bound
from kvconform.oracles.decode import LOCATE
from kvconform.oracles.evidence import typical_step
from kvconform.oracles.verdict import Interval
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.profile import Profile


def expected(outs: Array, lses: Array, profile: Profile, lse_unit: float = 1.0) -> dict[str, Interval]:
    """What merge_states must give for partial results that are exact.

    outs       [num_parts, num_seqs, num_q_heads, head_dim], whatever parts without keys hold
    lses       [num_parts, num_seqs, num_q_heads] in nats; -inf: no key
    profile    complete: splits, merge_levels and formats of this very merge
    lse_unit   nats in a unit of the lse that is returned
    """
    merged = merge_bound(outs.astype(np.float64), lses.astype(np.float64), profile)
    return {
        "out": Interval(merged.out, merged.out_error, profile.out_format, LOCATE["out"]),
        "lse": Interval(merged.lse / lse_unit, merged.lse_error / lse_unit, profile.lse_format, LOCATE["lse"]),
    }


def weighted(outs: Array, weights: Array, profile: Profile) -> dict[str, Interval]:
    """The out of a kernel that sums parts by other weights than it should; its rounding is estimated, not derived.

    weights   [num_parts, num_seqs, num_q_heads]
    """
    terms = weights[..., None] * np.where(weights[..., None] != 0, outs.astype(np.float64), 0.0)
    slack = 2 * len(outs) * FORMATS["float32"].unit * np.abs(terms).sum(0)
    return {"out": Interval(terms.sum(0), slack, profile.out_format, LOCATE["out"])}


def visible_weight(outs: Array, lses: Array, want: dict[str, Interval]) -> list[float]:
    """For each row with two live parts or more: the change of a part's weight that a typical element shows."""
    live = np.isfinite(lses)
    rows = np.argwhere(live.sum(0) > 1)
    out = want["out"]
    seen = []
    for row in map(tuple, rows):
        parts = outs[(slice(None), *row)][live[(slice(None), *row)]].astype(np.float64)
        seen += typical_step(parts[None], out.want[row][None], out.error[row][None], out.format)
    return seen
