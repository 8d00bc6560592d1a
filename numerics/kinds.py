"""Kinds of inputs, each hard in its own way: one row a kind, each a change of ordinary numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kvconform.numerics.emulators import Row, stored
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.operations import NARROW

Floats = npt.NDArray[np.float64]

KEYS = (1, 2, 3, 7, 16, 33, 64, 200)
HEAD_DIM = (1, 2, 4, 16, 32)
VALUE_DIM = (1, 4, 16, 64)


@dataclass(frozen=True)
class Draft:
    """Numbers before they are rounded into the storage type: q [d], k [n, d], v [n, dv], bias [n], sink."""

    q: Floats
    k: Floats
    v: Floats
    bias: Any = 0.0
    soft_cap: float = 0.0
    sink: float | None = None

    @property
    def position(self) -> Floats:
        """[n, 1], the number of each key."""
        return np.asarray(np.arange(len(self.k), dtype=np.float64)[:, None])

    @property
    def along(self) -> Floats:
        """[d], a key that scores 1."""
        return np.asarray(self.q / (self.q @ self.q) * np.sqrt(self.q.size))

    @property
    def weights(self) -> Floats:
        """[n], roughly: the softmax of the scores, the greatest 1."""
        score = self.k @ self.q / np.sqrt(self.q.size)
        return np.asarray(np.exp(score - score.max()))

    @property
    def greatest(self) -> float:
        """About the greatest score of a key that is seen."""
        return float((self.k @ self.q / np.sqrt(self.q.size) + self.bias).max())


Change = Callable[[np.random.Generator, Draft], Draft]


def _dominant(rng: np.random.Generator, x: Draft) -> Draft:
    k = x.k.copy()
    k[rng.integers(len(k))] = 3 * x.q
    return replace(x, k=k)


def _heavy(rng: np.random.Generator, x: Draft) -> Draft:
    return replace(x, k=rng.standard_t(2, x.k.shape), v=rng.standard_t(2, x.v.shape))


def _rising(step: float) -> Change:
    return lambda rng, x: replace(x, k=0.1 * x.k + step * x.position / max(1, len(x.k) - 1) * x.along)


def _two_levels(rng: np.random.Generator, x: Draft) -> Draft:
    return replace(x, k=np.where(x.position == len(x.k) // 2, 0.7, 0) * x.along + x.k[:1], v=1 + 0.05 * x.v)


def _uniform(rng: np.random.Generator, x: Draft) -> Draft:
    q, k, v = (rng.uniform(-1, 1, a.shape) / np.sqrt(x.q.size) for a in (x.q, x.k, x.v))
    return Draft(q, k, v)


def _cancelling_dot(rng: np.random.Generator, x: Draft) -> Draft:
    k = 1e3 * x.k
    k[:, -1] -= k.sum(1)
    return replace(x, q=np.ones_like(x.q), k=k)


def _vanishing(rng: np.random.Generator, x: Draft) -> Draft:
    """All but the first key weigh 2^-9 to 2^-26: near where a sum, or a narrow P, loses them."""
    fall = np.log(2.0) * rng.uniform(9, 26)
    return replace(x, k=-np.where(x.position > 0, fall, 0.0) * x.along, v=np.abs(x.v))


def _crossing(rng: np.random.Generator, x: Draft) -> Draft:
    """Elements of q half way between two bfloat16 numbers: rounding q moves large scores past one another."""
    q = np.where(rng.random(x.q.shape) < 0.5, 1 + 2.0**-8, 1 + 3 * 2.0**-8)
    return replace(x, q=q, k=rng.choice([1e2, 1e4]) * np.eye(q.size)[rng.integers(q.size, size=len(x.k))] + x.k)


def _rounding_of_p(rng: np.random.Generator, x: Draft) -> Draft:
    """V has the sign of the error with which bfloat16 rounds its weight: no error cancels another."""
    return replace(x, v=np.sign(stored(x.weights, "bfloat16") - x.weights)[:, None] * np.abs(x.v))


KINDS: dict[str, Change] = {
    "gauss": lambda rng, x: x,
    "sharp": lambda rng, x: replace(x, q=8 * x.q),
    "ties": lambda rng, x: replace(x, k=x.k[:1] + 1e-3 * x.k),
    "dominant": _dominant,
    "cancelling v": lambda rng, x: replace(x, v=100 * np.where(x.position % 2, 1, -1) * (1 + 1e-2 * x.v)),
    "offset k": lambda rng, x: replace(x, k=x.k + 30 * rng.standard_normal((1, x.q.size))),
    "offset v": lambda rng, x: replace(x, v=x.v + 100),
    "constant": lambda rng, x: replace(x, k=np.repeat(x.k[:1], len(x.k), 0), v=np.repeat(x.v[:1], len(x.v), 0)),
    "two levels": _two_levels,
    "heavy": _heavy,
    "ascending": _rising(20.0),
    "descending": _rising(-20.0),
    "tiny v": lambda rng, x: replace(x, v=1e-6 * x.v),
    "subnormal v": lambda rng, x: replace(x, v=1e-38 * x.v),
    "uniform": _uniform,
    "logits 1e3": lambda rng, x: replace(x, k=0.1 * x.k + rng.choice([1e2, 1e3, 1e4]) * x.along),
    "cancelling dot": _cancelling_dot,
    "capped": lambda rng, x: replace(x, q=8 * x.q, soft_cap=float(rng.choice([5, 30, 50]))),
    "alibi": lambda rng, x: replace(x, bias=-rng.uniform(0, 8) * x.position[::-1, 0] / len(x.k)),
    "vanishing": _vanishing,
    "crossing": _crossing,
    "rounding of P": _rounding_of_p,
}
"""Name -> what it makes of ordinary numbers."""


def _windowed(rng: np.random.Generator, x: Draft) -> Draft:
    """Of the newest keys some are seen; the others are large."""
    hidden = x.position[:, 0] < len(x.k) - rng.integers(1, len(x.k) + 1)
    k, v = (np.where(hidden[:, None], 1e3 * a, a) for a in (x.k, x.v))
    return replace(x, k=k, v=v, bias=np.where(hidden, -np.inf, x.bias))


def _sunk(low: float, high: float) -> Change:
    """A sink so far above the greatest score."""
    return lambda rng, x: replace(x, sink=x.greatest + rng.uniform(low, high))


def _then(*changes: str) -> Change:
    def change(rng: np.random.Generator, x: Draft) -> Draft:
        for name in changes:
            x = (KINDS | FEATURED)[name](rng, x)
        return x

    return change


FEATURED: dict[str, Change] = {
    "windowed": _windowed,
    "sink": lambda rng, x: replace(x, sink=rng.uniform(-4, 4)),
    "sink at the top": _sunk(-1e-3, 1e-3),
    "dominant sink": _sunk(12, 20),
    "vanishing sink": _sunk(-26, -9),
    "sink beside a window": _then("heavy", "windowed", "sink"),
    "sink beside alibi": _then("alibi", "sink"),
    "sink beside a cap": _then("capped", "sink"),
    "dominant sink beside a window and alibi": _then("alibi", "windowed", "dominant sink"),
}
"""The same of kernels that have windows and sinks."""


def kinds_of(features: bool) -> dict[str, Change]:
    """The kinds that a kernel is searched on."""
    return KINDS | FEATURED if features else KINDS


def draw(kind: str, rng: np.random.Generator, storage: str, *, largest: int = max(KEYS)) -> Row:
    """A random row of a kind, exact in the storage type, of at most `largest` keys."""
    n, d, dv = (int(rng.choice(sizes)) for sizes in ([n for n in KEYS if n <= largest], HEAD_DIM, VALUE_DIM))
    ordinary = Draft(rng.standard_normal(d), rng.standard_normal((n, d)), rng.standard_normal((n, dv)))
    drawn = (KINDS | FEATURED)[kind](rng, ordinary)
    with np.errstate(over="ignore"):
        if storage in NARROW:
            q, of_k, of_v = stored(drawn.q, "bfloat16"), *(_scales(rng, a) for a in (drawn.k, drawn.v))
            k, v = (codes(a / scale[:, None], storage) for a, scale in ((drawn.k, of_k), (drawn.v, of_v)))
            scaled = {"of_k": of_k, "of_v": of_v}
        else:
            q, k, v = (stored(a, storage) for a in (drawn.q, drawn.k, drawn.v))
            scaled = {}
    bias = np.asarray(drawn.bias, np.float32) if np.ndim(drawn.bias) else drawn.bias
    sink = None if drawn.sink is None else float(stored(drawn.sink, "bfloat16"))  # exact in any storage of scores
    return Row(q, k, v, float(np.float32(d**-0.5)), bias, drawn.soft_cap, sink, **scaled)


def codes(a: Floats, storage: str) -> Any:
    """The nearest codes there are."""
    if storage == "int8":
        return np.clip(np.rint(a), -128, 127).astype(np.float32)
    largest = FORMATS[storage].largest
    return stored(np.clip(a, -largest, largest), storage)


def _scales(rng: np.random.Generator, a: Floats) -> Any:
    """float32 [n], such that a token's largest number is a code of 32 to 127, or all of it is small."""
    top = np.maximum(np.abs(a).max(-1, initial=0.0), 2.0**-100)
    return (top / rng.uniform(32, 127, len(a))).astype(np.float32)
