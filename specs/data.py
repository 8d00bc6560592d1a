"""Bulk data: an integer hash of (seed, tensor, logical coordinate), mapped exactly to the dtype.

No generator state and no order: the value at a coordinate depends on that coordinate alone, so shrinking one size
leaves every other value as it was, and the same Case holds the same bits on every machine.

Every value of an arithmetic family but `fine` has at most six significant bits, so it is exact in float16, bfloat16
and float32 alike; `fine` uses every bit of its dtype, so that a kernel which narrows its operands shows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kvconform.specs.dtypes import DTYPES, PACKED, host, is_floating

Array = npt.NDArray[Any]
Hashes = npt.NDArray[np.uint64]

_U = np.uint64


def _mix(x: Hashes) -> Hashes:
    """splitmix64's finaliser (Steele, Lea and Flood 2014), in place."""
    x = np.asarray(x)  # of arrays, even of one element, overflow is silent
    x += _ADDEND
    shifted = np.empty_like(x)
    for shift, factor in _ROUNDS:  # in place: an array is as large as a cache
        np.right_shift(x, shift, out=shifted)
        x ^= shifted
        x *= factor
    np.right_shift(x, _LAST, out=shifted)
    x ^= shifted
    return x


_ADDEND = _U(0x9E3779B97F4A7C15)
_LAST = _U(31)
_ROUNDS = ((_U(30), _U(0xBF58476D1CE4E5B9)), (_U(27), _U(0x94D049BB133111EB)))


def hashes(seed: int, tensor: str, *axes: Any) -> Hashes:
    """uint64 hash of each coordinate; `axes` broadcast together."""
    h: Hashes = _start(seed, tensor)
    for axis in axes:
        h = _mix(h ^ np.asarray(axis).astype(np.uint64))
    return h


@lru_cache(maxsize=1024)
def _start(seed: int, tensor: str) -> Hashes:
    start = _mix(np.asarray(_U(seed) ^ (_U(zlib.crc32(tensor.encode())) << _U(20))))
    start.flags.writeable = False
    return start


@lru_cache(maxsize=1024)
def grid(*sizes: int) -> tuple[Array, ...]:
    """Open coordinate arrays of a box, to be passed to `hashes`; shared, so never written to."""
    open_grid = tuple(np.ogrid[tuple(slice(0, n) for n in sizes)])
    for coordinates in open_grid:
        coordinates.flags.writeable = False
    return open_grid


def _eighths(h: Hashes) -> npt.NDArray[np.float64]:
    """-1, -7/8, ..., 7/8."""
    return ((h >> _U(60)).astype(np.int64) - 8) / 8.0


def _plain(tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
    return _eighths(h)


def _wide(tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
    return np.ldexp(_eighths(h), 2 - ((h >> _U(50)) & _U(3)).astype(np.int64))


def _sharp(tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
    return _eighths(h) * (16.0 if tensor in ("q", "lse") else 1.0)


def _steep(tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
    return _eighths(h) * (128.0 if tensor in ("q", "lse") else 1.0)


def _flat(tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
    return _eighths(h) * (0.0 if tensor in ("q", "lse") else 1.0)


def _offset(tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
    return _eighths(h) + (4.0 if tensor in ("v", "outs") else 0.0)


def _fine(tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
    return np.ldexp((h >> _U(11)).astype(np.float64), -52) - 1.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A family whose elements are drawn one by one, each apart from all others.

    claim      what it holds and what for
    value      tensor and hashes -> numbers
    screened   whether keys differ in what they score, so that chance has its say (oracles/screen.py)
    """

    claim: str
    value: Callable[[str, Hashes], npt.NDArray[np.float64]]
    screened: bool = True

    def __call__(self, tensor: str, h: Hashes) -> npt.NDArray[np.float64]:
        return self.value(tensor, h)


ARITHMETIC_FAMILIES: dict[str, Drawn] = {
    "plain": Drawn(claim="eighths in [-1, 1)", value=_plain),
    "wide": Drawn(claim="eighths times 1/2 .. 4", value=_wide),
    "sharp": Drawn(claim="q and lse 16 times larger: few keys count", value=_sharp),
    "steep": Drawn(
        claim="q and lse 128 times larger: exp overflows unless the maximum is taken away first", value=_steep
    ),
    "flat": Drawn(claim="q and lse 0: every key counts the same", value=_flat, screened=False),
    "offset": Drawn(claim="v around 4: outputs that cancel", value=_offset),
    "fine": Drawn(claim="anything in [-1, 1), rounded to the dtype: every bit of a significand counts", value=_fine),
}
"""What numbers an arithmetic case holds, simplest first."""

FINE = "fine"
"""The family whose values use every bit of their type."""

FLAT = "flat"
"""The family in which every key scores 0, and every exponential is exp(0)."""

MOVEMENT_FAMILIES = ("plain", "bits", "patterns")
"""What bytes a data-movement case holds, simplest first."""

CLAIMS = {
    **{name: family.claim for name, family in ARITHMETIC_FAMILIES.items()},
    "bits": "random bit patterns: NaN payloads, -0.0, subnormals",
    "patterns": "every bit pattern in turn",
}
"""Family -> what it holds and what for."""

FAMILIES = tuple(dict.fromkeys([*ARITHMETIC_FAMILIES, *MOVEMENT_FAMILIES]))
"""Every kind of contents."""


def bits(dtype: str, h: Hashes) -> Array:
    """Random bit patterns of a storage type."""
    if dtype in PACKED:
        return np.asarray((h >> _U(64 - PACKED[dtype])).astype(np.uint8))
    width = np.dtype(host(dtype)).itemsize * 8
    return np.asarray((h >> _U(64 - width)).astype(f"uint{width}")).view(host(dtype))


def patterns(dtype: str, shape: tuple[int, ...], start: int) -> Array:
    """Consecutive bit patterns in C order, beginning at `start`: 2**16 elements hold each pattern of a 16-bit type."""
    width = DTYPES[dtype].itemsize * 8
    count = np.arange(start, start + int(np.prod(shape)), dtype=np.uint64).reshape(shape)
    return count.astype(f"uint{width}").view(DTYPES[dtype])


def values(dtype: str, family: str, tensor: str, h: Hashes) -> Array:
    """One value of the family a hash, exact in the dtype (integers: -8 .. 7, unsigned 0 .. 15)."""
    if family == "bits" or dtype in PACKED:
        return bits(dtype, h)
    if not is_floating(dtype):
        small = (h >> _U(60)).astype(np.int64)
        return np.asarray((small - 8 * (DTYPES[dtype].kind == "i")).astype(DTYPES[dtype]))
    return np.asarray(ARITHMETIC_FAMILIES[family](tensor, h).astype(DTYPES[dtype]))


def garbage(dtype: str, h: Hashes) -> Array:
    """Finite values far outside every family, 128 .. 248: what a reader must never let through."""
    if not is_floating(dtype):
        return bits(dtype, h)
    sign = np.where((h >> _U(40)) & _U(1), -1.0, 1.0)
    return np.asarray((sign * (16.0 + (h >> _U(60)).astype(np.int64)) * 8.0).astype(DTYPES[dtype]))


def unwritten(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """What memory holds that is given to be written: one NaN that no arithmetic makes.

    Of other types, those of bytes that anything may lie in among them: all bits set, which are NaN in every floating
    type, or random ones, seed by seed.
    """
    if dtype in UNWRITTEN:
        return np.full(shape, UNWRITTEN[dtype], f"uint{DTYPES[dtype].itemsize * 8}").view(DTYPES[dtype])
    if seed % 2 == 0:
        array = np.empty(shape, DTYPES[dtype])
        array.view(np.uint8)[...] = 0xFF
        return array
    return bits(dtype, hashes(seed, "unwritten", *grid(*shape)))


UNWRITTEN = {"float32": 0x7FE55AA5, "float16": 0x7EA5, "bfloat16": 0x7FE5}
"""Type of a rounded result -> the bits of the NaN that it has nowhere before it is written."""

DEAD = ("zero", "finite", "nan", "inf", "bits")
"""Contents of what no sequence reads."""


def dead(dtype: str, contents: str, h: Hashes) -> Array:
    """What lies where nothing may be read: zeros, finite garbage, NaN, infinities of either sign, or random bits."""
    if contents == "zero":
        return np.zeros(h.shape, host(dtype))
    if contents == "finite":
        return garbage(dtype, h)
    if contents == "bits" or not is_floating(dtype):
        return bits(dtype, h)
    worst = np.nan if contents == "nan" else np.where((h >> _U(40)) & _U(1), -np.inf, np.inf)
    return np.broadcast_to(worst, h.shape).astype(host(dtype))
