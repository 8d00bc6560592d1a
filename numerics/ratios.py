"""How much of its bound a correct kernel uses: 1 is the whole of it, more is a false alarm."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvconform.numerics.emulators import Row
from kvconform.oracles.bound import Bounded, Floats, attention_bound
from kvconform.oracles.keys import ROUNDED_BY
from kvconform.oracles.rounding import admissible
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.profile import Profile
from kvconform.specs.row import SCALE


def bounded(row: Row, profile: Profile, **options: Any) -> Bounded:
    """The oracle's answer for one row."""
    roundings = 0 if row.of_k is None else ROUNDED_BY[SCALE]
    told: dict[str, Any] = {"bias": row.bias, "soft_cap": row.soft_cap, "sink": row.sink}
    told |= {"k_roundings": roundings, "v_roundings": roundings} | options
    return attention_bound(row.q, *row.numbers, row.sm_scale, profile, **told)


def inside(result: tuple[Any, Any], want: Bounded, profile: Profile) -> bool:
    """The verdict on a whole result."""
    out, lse = result
    return bool(
        admissible(out, want.out, want.out_error, profile.out_format).all()
        and admissible(lse, want.lse, want.lse_error, profile.lse_format).all()
    )


def used(got: Any, want: Any, error: Any, format: str) -> Floats:
    """Distance of each element in units of its bound + half an ulp of the result; equal infinities are 0 apart."""
    half_ulp = np.maximum(FORMATS[format].unit * (np.abs(want) + error), FORMATS[format].half_subnormal)
    with np.errstate(invalid="ignore"):
        share = np.abs(np.asarray(got, np.float64) - want) / (error + half_ulp)
    return np.where(np.isneginf(want) & np.isneginf(got), 0.0, share)


def ratio(got: Any, want: Any, error: Any, format: str) -> float:
    """The greatest share that any element uses."""
    return float(np.max(used(got, want, error, format), initial=0.0))


def ratios(result: tuple[Any, Any], want: Bounded, profile: Profile) -> tuple[float, float]:
    """Those of out and of lse."""
    out, lse = result
    return (
        ratio(out, want.out, want.out_error, profile.out_format),
        ratio(lse, want.lse, want.lse_error, profile.lse_format),
    )
