"""Paged decode attention by the definition in float64, with the error that the declared profile allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kvconform.oracles import paged, screen
from kvconform.oracles.bound import Bounded, attention_bound
from kvconform.oracles.paged import Reading
from kvconform.oracles.verdict import Expected, Interval, by_axes
from kvconform.specs.data import FLAT, Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.paged import PagedInputs
from kvconform.specs.profile import Profile

LOCATE = {"out": by_axes("seq", "q_head", "dim"), "lse": by_axes("seq", "q_head")}
"""How an index of each result of attention is named."""

COARSE = FORMATS["bfloat16"].unit
"""An exponential that errs by more than this is taken for none."""

LSE_UNIT = {"e": 1.0, "2": float(np.log(2.0))}
"""What one unit of lse is worth in nats, by the declared base."""


@dataclass(frozen=True)
class DecodeReading(Reading):
    """A Reading, and how attention is made of it.

    head_of    [num_q_heads] the kv head of each q head
    sm_scale   factor of q . k
    lse_unit   nats in a unit of lse
    join       how the partial results of splits become one; None: by log-sum-exp
    cut        with `join`: (kv_len, num_splits, page_size) -> where each split ends
    """

    head_of: Array
    sm_scale: float
    lse_unit: float = 1.0
    join: Callable[[list[Bounded]], Bounded] | None = None
    cut: Callable[[int, int, int], list[int]] | None = None

    @staticmethod
    def right(inputs: PagedInputs, lse_base: str = "e") -> DecodeReading:
        """The right reading of a Case."""
        case = inputs.case
        head_of = np.arange(case.num_q_heads) // case.group
        return DecodeReading(
            **vars(Reading.of(inputs)), head_of=head_of, sm_scale=inputs.sm_scale, lse_unit=LSE_UNIT[lse_base]
        )


def rounding(profile: Profile, dtype: str, **parts: Any) -> Profile:
    """The adapter's profile, completed by what the Case decides: the result's format and the number of splits."""
    return replace(profile, out_format=dtype, **parts)


def tree(profile: Profile, dtype: str, num_parts: int, depth: int) -> Profile:
    """The profile of `num_parts` results merged by calls, `depth` calls deep; each call stores its result."""
    one_call = profile.merge_levels or 2
    return rounding(profile, dtype, splits=num_parts, merge_levels=one_call * depth, partial_format=dtype)


def twice_merged(profile: Profile, dtype: str, num_splits: int, num_parts: int) -> Profile:
    """The profile of decoding `num_parts` parts in `num_splits` splits each, and merging once more."""
    inside = (profile.merge_levels or num_splits) if num_splits > 1 else 0
    levels = inside + (profile.merge_levels or num_parts)
    return rounding(profile, dtype, splits=num_splits * num_parts, merge_levels=levels, partial_format=dtype)


def attended(
    inputs: PagedInputs,
    cache: Mapping[str, Array],
    profile: Profile,
    reading: DecodeReading,
    seq: int,
    *,
    keep_terms: bool = False,
) -> Bounded:
    """One sequence: out [num_q_heads, head_dim], lse [num_q_heads] and their errors."""
    k, v = (
        rows.astype(np.float64).swapaxes(0, 1)[reading.head_of] for rows in paged.sequence(inputs, cache, seq, reading)
    )
    q = inputs.q[seq].astype(np.float64)
    if reading.join is None:
        return attention_bound(q, k, v, reading.sm_scale, profile, keep_terms=keep_terms)
    ends = reading.cut(k.shape[1], inputs.case.num_splits, inputs.case.page_size) if reading.cut else [k.shape[1]]
    parts = [
        attention_bound(q, k[:, a:b], v[:, a:b], reading.sm_scale, profile)
        for a, b in zip([0, *ends], ends, strict=False)
    ]
    return reading.join(parts)


def expected(
    inputs: PagedInputs,
    cache: Mapping[str, Array],
    profile: Profile,
    reading: DecodeReading,
    *,
    screened: bool = False,
) -> dict[str, Interval]:
    """What `out` and `lse` must be (of a mistaken join: `out` at least). `profile` is complete (see `rounding`).

    screened   whether `out` is to say how far chance alone would take it (oracles/screen.py)
    """
    lam = screen.multiple(inputs.q.size, max(reading.lens, default=0)) if screened else None
    names, rows, narrow = ("out", "out_error", "lse", "lse_error"), [], []
    for seq in range(len(reading.lens)):
        found = attended(inputs, cache, profile, reading, seq, keep_terms=screened)
        rows.append([getattr(found, name) for name in names])
        if lam is not None:
            narrow.append(screen.out_error(found, profile, lam))
    out, out_error, lse, lse_error = map(np.stack, zip(*rows, strict=True))
    unit = reading.lse_unit
    likely = np.stack(narrow) if screened else None
    want = {"out": Interval(out, out_error, profile.out_format, LOCATE["out"], likely)}
    if reading.join is None or not np.isnan(lse_error).any():  # a mistaken join may leave it open
        want["lse"] = Interval(lse / unit, lse_error / unit, profile.lse_format, LOCATE["lse"])
    return want


def required(
    inputs: PagedInputs,
    cache: Mapping[str, Array],
    profile: Profile,
    reading: DecodeReading,
    *,
    screened: bool = False,
) -> dict[str, Interval]:
    """What is expected, and exp(0) = 1: where all keys score 0, no exponential in the sum of an unsplit lse errs."""
    want = expected(inputs, cache, profile, reading, screened=screened)
    if profile.splits == 1 and not profile.max_lag and inputs.case.family == FLAT:
        want["lse"] = expected(inputs, cache, replace(profile, exp_error=0.0), reading)["lse"]
    return want


def error_of_exp_at_0(got: Mapping[str, Array], want: Mapping[str, Interval], lse_unit: float) -> float:
    """How far exp(0) is from 1, judged by what is required where all keys score 0; 0 where that does not show.

    It shows in every lse of the call, as log exp(0), and in tiles that are rescaled, once more for each.
    """
    if "lse" not in got:
        return 0.0
    off = got["lse"].astype(np.float64) - want["lse"].want
    off = off[np.isfinite(want["lse"].want)]
    shows = want["lse"].unmet(got["lse"])[np.isfinite(want["lse"].want)]
    size = float(np.abs(off).max(initial=0.0)) * lse_unit
    return size if shows.all() and size <= COARSE else 0.0


def visible_weight(
    inputs: PagedInputs, cache: Mapping[str, Array], want: Expected, reading: DecodeReading
) -> list[float]:
    """Of each (sequence, q head) with two keys or more: the change of a key's weight that a typical element shows."""
    out = want["out"]
    assert isinstance(out, Interval)
    seen = []
    for seq in range(len(reading.lens)):
        if reading.lens[seq] < 2:
            continue
        _, v = paged.sequence(inputs, cache, seq, reading)
        v = v.astype(np.float64).swapaxes(0, 1)[reading.head_of]
        seen += typical_step(v, out.want[seq], out.error[seq], out.format)
    return seen


def typical_step(v: Array, out: Array, error: Array, out_format: str) -> list[float]:
    """Per row: the change of a key's weight, as a share of all weight, that a typical element of out shows.

    v [rows, n, dim];  out, error [rows, dim]

    It is (bound + rounding of the result) / |v - out|, the key's lever on the element: the median over keys and dims.
    The least such change says little: an output that happens to be near 0 is rounded finely, and speaks for itself.
    """
    lever = np.abs(v - out[:, None])
    reach = (error + FORMATS[out_format].unit * np.abs(out))[:, None]
    with np.errstate(divide="ignore", over="ignore"):
        steps = np.where(lever > 0, reach / np.where(lever > 0, lever, 1.0), np.inf)
    return [float(x) for x in np.median(steps, (1, 2))]
