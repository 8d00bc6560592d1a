"""Element types by their ml_dtypes names, and what rounding into each one costs.

`DTYPES` are storage types a cache may hold. `FORMATS` are the floating-point formats that arithmetic is done in: the
storage types that round, and those (tf32, float64) that only exist inside a kernel or an oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

DType = np.dtype[Any]

DTYPES: dict[str, DType] = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8")
}
"""Name -> numpy dtype, widest first; floating types before integers."""

PACKED: dict[str, int] = {"float8_e8m0fnu": 8, "float4_e2m1fn": 4, "uint4": 4, "uint2": 2, "uint1": 1}
"""Name -> bits of the types that exist only inside packed fields. On the host each is a uint8 that holds the code."""


def host(name: str) -> DType:
    """The numpy dtype of an array of these values outside a cache; int32 words of a packed buffer too."""
    return np.dtype(np.uint8) if name in PACKED else DTYPES[name] if name in DTYPES else np.dtype(name)


def numbers(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What stored values are as numbers, exactly."""
    if name == "float8_e8m0fnu":
        return np.where(values == 255, np.nan, np.ldexp(1.0, values.astype(np.int64) - 127))
    if name == "float4_e2m1fn":
        return np.asarray(values.view(ml_dtypes.float4_e2m1fn).astype(np.float64))
    with np.errstate(invalid="ignore"):  # a signalling NaN is none any more
        return values.astype(np.float64)


def width(name: str) -> int:
    """Bits of one value inside a cache."""
    return PACKED[name] if name in PACKED else 8 * host(name).itemsize


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: how finely it resolves, and where it ends.

    bits      significant bits, the hidden one included
    min_exp   exponent of the least normal number, 2**min_exp
    largest   greatest finite value
    """

    bits: int
    min_exp: int
    largest: float

    @property
    def unit(self) -> float:
        """Unit roundoff: the greatest relative error of rounding to nearest, 2**-bits."""
        return 2.0**-self.bits

    @property
    def half_subnormal(self) -> float:
        """Half the least subnormal: the greatest absolute error of rounding to nearest near zero."""
        return 2.0 ** (self.min_exp - self.bits)

    @property
    def least_normal(self) -> float:
        """What an operation may lose when it flushes subnormals to zero."""
        return 2.0**self.min_exp


def _format(name: str) -> Format:
    info: Any = ml_dtypes.finfo(DTYPES[name])  # type: ignore[no-untyped-call]
    return Format(int(info.nmant) + 1, int(info.minexp), float(info.max))


FORMATS: dict[str, Format] = {
    "float64": Format(53, -1022, float(np.finfo(np.float64).max)),
    "tfloat32": Format(11, -126, float(np.finfo(np.float32).max)),
    **{name: _format(name) for name in ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")},
}


def is_floating(dtype: str) -> bool:
    """Whether the named storage type has NaN and infinities to worry about (float8_e4m3fn has NaN only)."""
    return dtype in FORMATS
