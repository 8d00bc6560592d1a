"""Rounding into a format, and the verdict that rests on it: a result lies between two rounded ends.

A kernel ends by rounding some number `x` with `|x - want| <= error` into its output format. Rounding is monotone, so
what it returns lies in `[round(want - error), round(want + error)]`, and every value in there could be that result.
No half ulp is added to the error: where both ends round alike, exactly one value is admissible.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvconform.specs.dtypes import FORMATS

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def round_to(x: npt.ArrayLike, format: str | None) -> Floats:
    """Round to nearest, ties to even, into a format of `FORMATS`; the values stay in float64.

    x        any real array
    format   None and "float64" leave x as it is
    returns  subnormals kept, NaN kept, the sign of zero kept; past the largest finite value: infinity

    float8_e4m3fn has no infinity (casts make NaN of an overflow), yet the result is infinity there too: rounding has to
    be monotone on the whole line, and infinity lies above every value of the format, while NaN compares with none.
    """
    x = np.asarray(x, np.float64)
    if format is None or format == "float64":
        return x
    target = FORMATS[format]
    _, exponent = np.frexp(x)  # |x| in [2**(exponent - 1), 2**exponent)
    # one unit in the last place; never finer than the subnormals
    ulp = np.ldexp(1.0, np.maximum(exponent - 1, target.min_exp) - (target.bits - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.where(np.isfinite(x), np.rint(x / ulp) * ulp, x)
        return np.where(np.abs(rounded) > target.largest, np.copysign(np.inf, rounded), rounded)


def admissible(got: npt.ArrayLike, want: npt.ArrayLike, error: npt.ArrayLike, format: str | None) -> Bools:
    """Whether each `got` may be the rounding into `format` of some number within `error` of `want`.

    got      what the kernel returned, already in `format`
    want     exact; -inf is a value like any other, and with error 0 admits -inf alone
    error    >= 0; where it is infinite every number is admissible
    returns  bool, broadcast. NaN is never admissible, nor is anything where want or error is NaN; -0.0 equals +0.0

    An end beyond the format's largest value rounds to infinity, which then is admissible: the exact result overflowed.
    """
    got, want, error = (np.asarray(a, np.float64) for a in (got, want, error))
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, and no comparison with NaN holds
        low, high = round_to(want - error, format), round_to(want + error, format)
        return np.asarray((got >= low) & (got <= high))
