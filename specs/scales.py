"""What the numbers of a narrow cache are multiplied with, and moved by: code * scale + zero, times k_scale or v_scale.

Scales and zeros lie in the cache, beside the codes (`scale`, `zero` parts of a row), or are given to attention as
k_scale and v_scale: float32, one for all, or one a head, a page and head, a token and head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kvconform.specs import data
from kvconform.specs.data import Array, Hashes
from kvconform.specs.dtypes import DTYPES, PACKED

AXES: dict[str, tuple[str, ...]] = {
    "none": (),
    "tensor": ("one",),
    "head": ("head",),
    "page": ("page", "head"),
    "token": ("page", "slot", "head"),
}
"""Value of a Case's `kv_scales` -> axes of k_scale and v_scale; `one` has one entry."""

STEPS = {"int8": 2.0**-3, "uint4": 2.0**-3, "uint2": 2.0**-1, "float4_e2m1fn": 2.0**-2}
"""Type of codes -> the scale by which those that are drawn become numbers of about 1; of others 1."""


def drawn(of: str, h: Hashes) -> npt.NDArray[np.float64]:
    """A positive scale a hash, for codes of a type: from half its step to twice, with every bit of a float32."""
    share = np.ldexp((h >> np.uint64(41)).astype(np.float64), -24) + 0.5
    return np.ldexp(share, ((h >> np.uint64(40)) & np.uint64(1)).astype(np.int64)) * STEPS.get(of, 1.0)


def stored(dtype: str, of: str, what: str, h: Hashes) -> Array:
    """A part of the cache that holds scales or zeros, one a hash, rounded to its dtype.

    of     type of the codes
    what   scale, zero
    """
    if what == "zero":
        return np.asarray((-(h >> np.uint64(61)).astype(np.int64) / 8.0).astype(DTYPES[dtype]))
    scale = drawn(of, h)
    if dtype in PACKED:  # powers of two, by their exponent
        return np.asarray((np.frexp(scale)[1] - 1 + 127).astype(np.uint8))
    return np.asarray(scale.astype(DTYPES[dtype]))


def given(kv_scales: str, side: str, seed: int, of: str, sizes: dict[str, int]) -> Array | None:
    """k_scale or v_scale as attention takes it: float32, of the shape that `AXES` says; None where there is none."""
    axes = AXES[kv_scales]
    if not axes:
        return None
    shape = tuple({"one": 1, **sizes}[axis] for axis in axes)
    return drawn(of, data.hashes(seed, f"{side}_scale", *data.grid(*shape))).astype(np.float32)


def at(scale: Array, kv_scales: str, pages: Any, slots: Any) -> Array:
    """The scales of some tokens, [tokens, heads or 1]."""
    places = {"page": pages, "slot": slots}
    index = tuple(places[axis] for axis in AXES[kv_scales] if axis in places)
    return np.asarray(scale[index] if index else scale[None])
