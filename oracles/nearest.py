"""The nearest centroid: which codes a correct kernel can choose, by the distances in float64 and their derived error.

A kernel computes D'_c of every centroid and takes the least. Where |D'_c - D_c| <= E_c for each, the one that it takes
has D_c - E_c <= D'_c <= D'_b <= D_b + E_b for every other b: whatever meets that may be chosen. Where every step is
exact (few bits on a common grid), E is 0 and nothing rounds: the least distance it is then, of several the lowest code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvconform.oracles.bound import arithmetic_unit, operand_underflow, require_range, underflow, unit
from kvconform.oracles.verdict import Choice, by_axes
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.profile import Profile

Floats = npt.NDArray[np.float64]

AXES = ("token", "head", "subspace")


def nearest(x: Array, codebooks: Array, profile: Profile) -> Choice:
    """The codes that may stand for vectors.

    x [num_tokens, num_kv_heads, head_dim], codebooks [num_subspaces, num_centroids, sub_dim]: numbers
    allowed [num_tokens, num_kv_heads, num_subspaces, num_centroids]
    """
    cut = x.astype(np.float64).reshape(*x.shape[:2], len(codebooks), 1, codebooks.shape[-1])
    book = codebooks.astype(np.float64)
    distance, size = _distance(cut, book), _size(np.abs(cut[..., 0, :]), np.abs(book))
    require_range("a distance", size, profile.qk_accumulator, share=0.5)
    error = _error(distance, size, cut, book, profile)
    error[_is_exact(cut, book, size, profile)] = 0.0
    ends = distance + error
    least = ends.min(-1, keepdims=True)
    allowed = np.subtract(distance, error, out=ends) <= least
    lowest = np.arange(distance.shape[-1]) == distance.argmin(-1)[..., None]
    exact = ~error.any(-1, keepdims=True)
    return Choice(np.where(exact, lowest, allowed), distance, error, by_axes(*AXES))


def _error(distance: Floats, size: Floats, cut: Floats, book: Floats, profile: Profile) -> Floats:
    """E: sub_dim + 1 sums, products, and the difference twice; of operands that are rounded before, of all they hold.

    From squares and products, and from rounded operands, it is relative to the sum of (|x| + |c|)^2, which cancels.
    Three dots, one of them doubled, may each underflow in every product and every sum.
    """
    depth = cut.shape[-1]
    u = arithmetic_unit(profile.qk_accumulator, truncates=profile.qk_truncates)
    operands = (1 + unit(profile.q_format)) ** 2 * (1 + unit(profile.k_format)) ** 2 * (1 + profile.qk_error)
    arithmetic = (1 + u) ** (depth + 4)
    cancels = profile.expands_distance or operands > 1
    lost = (5 * depth + 4) * underflow(profile.qk_accumulator, profile)
    of_operands = operand_underflow(profile.q_format, profile) + operand_underflow(profile.k_format, profile)
    error: Floats = (operands * arithmetic - 1) * (size if cancels else distance)
    error += 2 * lost + 4 * of_operands * np.abs(cut).sum(-1)
    error += 4 * of_operands * np.abs(book).sum(-1)
    return error


def _distance(cut: Floats, book: Floats) -> Floats:
    """The sum over dims of (x - c)^2: one dim at a time, since of all together there are as many numbers as centroids
    times tokens."""
    total = np.square(cut[..., 0] - book[..., 0])
    step = np.empty_like(total)
    for dim in range(1, cut.shape[-1]):
        np.subtract(cut[..., dim], book[..., dim], out=step)
        total += np.square(step, out=step)
    return total


def _size(x: Floats, c: Floats) -> Floats:
    """The sum over dims of (|x| + |c|)^2, as squares and a product, since nothing cancels in it."""
    rows = np.moveaxis(x, 2, 0)
    products = rows.reshape(len(rows), rows.shape[1] * rows.shape[2], x.shape[-1]) @ np.swapaxes(c, 1, 2)
    size: Floats = 2 * np.moveaxis(products.reshape(*rows.shape[:-1], c.shape[1]), 0, 2)
    size += np.square(x).sum(-1)[..., None]
    size += np.square(c).sum(-1)
    return size


def _is_exact(cut: Floats, book: Floats, size: Floats, profile: Profile) -> npt.NDArray[np.bool_]:
    """Whether no step of either form rounds: all numbers are multiples of one step, of which squares count few enough.

    Formats that operands are rounded into round none that they hold. A root that is taken of the distances keeps them
    apart as long as they count fewer than half of the bits' steps, which those of few bits do.

    bool [num_tokens, num_kv_heads, num_subspaces]
    """
    if profile.qk_error:
        return np.zeros(size.shape[:-1], bool)
    kept = _holds(cut, profile.q_format).all((-1, -2)) & _holds(book, profile.k_format).all((-1, -2))
    step = np.minimum(_last_bit(cut).min((-1, -2)), _last_bit(book).min((-1, -2)))
    target = FORMATS[profile.qk_accumulator]
    with np.errstate(over="ignore"):
        counted = size.max(-1) <= np.ldexp(1 / target.unit, np.minimum(2 * step, 900))
    halves = 2 * step - 1 >= target.min_exp  # of 0.5 |c|^2 - x.c
    return np.asarray(kept & (counted & halves | (step == _OF_ZERO)))


def _holds(numbers: Floats, format: str | None) -> npt.NDArray[np.bool_]:
    """Whether a format has each number as it is."""
    if format is None:
        return np.ones(numbers.shape, bool)
    target, last = FORMATS[format], _last_bit(numbers)
    first = np.frexp(numbers)[1] - 1
    fits = (first - last < target.bits) & (last >= target.min_exp) & (np.abs(numbers) <= target.largest)
    return np.asarray(fits | (numbers == 0))


_OF_ZERO = 1 << 20


def _last_bit(numbers: Floats) -> npt.NDArray[np.int64]:
    """Exponent of the last bit that is set."""
    mantissa, exponent = np.frexp(numbers)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    last = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    return np.asarray(np.where(whole == 0, _OF_ZERO, exponent.astype(np.int64) - 53 + last))
