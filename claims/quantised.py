"""K and V whose channels are heavy-tailed, as KV caches have them, and attention over what quantisation leaves of them.

A few channels are 10 to 50 times as large as the others (what KIVI and KVQuant report of keys), and every number has
Student's t distribution, whose tails are far longer than a Gaussian's. Drawn from the seed alone; nothing is measured
on a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from kvconform.claims.training import Codebooks, train_codebooks
from kvconform.specs.data import Array
from kvconform.specs.row import SIDES

HEAD_DIM, NUM_KEYS, NUM_CENTROIDS = 64, 512, 256
LAYERS, SEQUENCES, QUERIES = 2, 3, 16
TRAINED_ON = 4096
"""Tokens of a layer that codebooks are trained on; none of them is attended to."""

OUTLIERS, LARGER, FREEDOM = 3, (10.0, 50.0), 5.0
"""Channels that are larger, how many times, and the degrees of freedom of Student's t."""

SPREADS = (1.0, 2.0, 3.0, 4.0)
"""Standard deviations of a query's scores over its keys: from flat attention to attention on a few keys."""

GROUP = 64
"""Tokens that share a scale and a zero of a channel, where the whole sequence does not."""

Quantise = Callable[[Array], Array]
"""[n, head_dim] -> what is left of it."""


class Coder(Protocol):
    """The part of an adapter that codes."""

    def pq_encode(self, x: Array, codebooks: Array, *, dtype: str) -> Array:
        """Numbers of the nearest centroids."""
        ...

    def pq_decode(self, codes: Array, codebooks: Array, *, dtype: str) -> Array:
        """Those centroids."""
        ...


@dataclass(frozen=True, eq=False)
class Layer:
    """What one layer's K or V are drawn from.

    scales   [head_dim]   of its channels
    """

    scales: Array
    rng: np.random.Generator

    def draw(self, tokens: int) -> Array:
        """float32 [tokens, head_dim], as float64."""
        drawn = self.rng.standard_t(FREEDOM, (tokens, len(self.scales))) * self.scales
        return drawn.astype(np.float32).astype(np.float64)


def layer(seed: int, which: int, side: int) -> Layer:
    """Of one layer's K or V."""
    rng = np.random.default_rng([seed, which, side])
    scales = np.exp(0.5 * rng.standard_normal(HEAD_DIM))
    scales[rng.permutation(HEAD_DIM)[:OUTLIERS]] *= rng.uniform(*LARGER, OUTLIERS)
    return Layer(scales, rng)


# --- quantisation


def uniform(x: Array, bits: int, axis: int) -> Array:
    """2 ** bits equal steps from the least to the greatest number along an axis; scale and zero are not rounded."""
    low, high = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
    step = (high - low) / (2**bits - 1)
    return np.asarray(low + step * np.round((x - low) / np.where(step > 0, step, 1.0)))


def by_channel(x: Array, bits: int) -> Array:
    """A scale and a zero of each channel."""
    return uniform(x, bits, 0)


def by_group(x: Array, bits: int) -> Array:
    """A scale and a zero of each channel and group of tokens."""
    return np.concatenate([by_channel(x[at : at + GROUP], bits) for at in range(0, len(x), GROUP)])


def by_token(x: Array, bits: int) -> Array:
    """A scale and a zero of each token."""
    return uniform(x, bits, 1)


def coded(x: Array, books: Codebooks, coder: Coder) -> Array:
    """The nearest centroids, by an adapter's own pq_encode and pq_decode."""
    turned = np.ascontiguousarray(books.rotated(x.astype(np.float32)), np.float32)[:, None]
    codes = coder.pq_encode(turned, books.centroids, dtype="uint8")
    return np.asarray(books.back(coder.pq_decode(codes, books.centroids, dtype="uint8")[:, 0].astype(np.float64)))


@lru_cache(maxsize=32)
def trained(seed: int, which: int, side: int, num_subspaces: int, rotate: bool) -> Codebooks:
    """Codebooks of one layer's K or V."""
    tokens = layer(seed, which, side).draw(TRAINED_ON).astype(np.float32)
    return train_codebooks(tokens, num_subspaces, NUM_CENTROIDS, seed, rotate=rotate)


PQ, OPQ = "product", "product, after OPQ's rotation"
PRODUCT = {PQ: False, OPQ: True}
"""name -> whether the numbers are rotated first."""

UNIFORM: dict[str, tuple[Callable[[Array, int], Array], ...]] = {
    "by channel": (by_channel, by_channel),
    f"by channel, {GROUP} tokens": (by_group, by_group),
    "by token": (by_token, by_token),
    "K by channel, V by token": (by_channel, by_token),
}
"""name -> how K and V are quantised, of (x, bits)."""

BITS_OF_SCALES = {
    "by channel": 32 / NUM_KEYS,
    f"by channel, {GROUP} tokens": 32 / GROUP,
    "by token": 32 / HEAD_DIM,
    "K by channel, V by token": 16 / NUM_KEYS + 16 / HEAD_DIM,
}
"""What a float16 scale and zero would add to each element; not counted against them."""


# --- attention


@dataclass(frozen=True, eq=False)
class Errors:
    """What every scheme did to attention of the same queries; dicts of scheme -> numbers.

    out        [queries]   Euclidean norm of a query's error, relative to its exact output's
    k          root of the mean square error of K's numbers, relative to theirs
    k_seen     the same, of keys weighted by how much attention they get
    """

    out: Mapping[str, Array]
    k: Mapping[str, float]
    k_seen: Mapping[str, float]

    def median(self, scheme: str) -> float:
        """Of `out`."""
        return float(np.median(self.out[scheme]))


def weights(q: Array, k: Array) -> Array:
    """softmax(q k^T)."""
    score = q @ k.T
    p = np.exp(score - score.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


def bits_of(num_subspaces: int) -> int:
    """An element's, of codes that are whole bytes."""
    return num_subspaces * 8 // HEAD_DIM


def drawn(seed: int) -> Iterator[tuple[int, Array, Array, Array]]:
    """Every sequence: (layer, q, k, v), of other tokens than codebooks were trained on."""
    for which in range(LAYERS):
        k_of, v_of = (
            Layer(layer(seed, which, side).scales, np.random.default_rng([seed, which, side, 1])) for side in SIDES
        )
        for _ in range(SEQUENCES):
            k, v = k_of.draw(NUM_KEYS), v_of.draw(NUM_KEYS)
            q = k_of.rng.standard_normal((QUERIES, HEAD_DIM))
            q *= (np.repeat(SPREADS, QUERIES // len(SPREADS)) / (q @ k.T).std(-1))[:, None]
            yield which, q, k, v


def errors(seed: int, num_subspaces: int, coder: Coder) -> Errors:
    """Attention of the same queries over K and V, by every scheme of so many bits an element."""
    bits = bits_of(num_subspaces)
    out: dict[str, list[Array]] = {name: [] for name in (*PRODUCT, *UNIFORM)}
    squares: dict[str, list[Array]] = {name: [] for name in out}
    sizes = []
    for which, q, k, v in drawn(seed):
        p = weights(q, k)
        seen, exact = p.mean(0), p @ v
        sizes.append(_totals(k, seen))
        for name in out:
            if name in PRODUCT:
                books = (trained(seed, which, side, num_subspaces, PRODUCT[name]) for side in SIDES)
                one, other = (coded(x, book, coder) for x, book in zip((k, v), books, strict=True))
            else:
                one, other = (quantise(x, bits) for quantise, x in zip(UNIFORM[name], (k, v), strict=True))
            out[name].append(relative(weights(q, one) @ other, exact))
            squares[name].append(_totals(one - k, seen))
    rms = {name: np.sqrt(sum(one) / sum(sizes)) for name, one in squares.items()}
    return Errors(
        {name: np.concatenate(rows) for name, rows in out.items()},
        {name: float(one[0]) for name, one in rms.items()},
        {name: float(one[1]) for name, one in rms.items()},
    )


def _totals(x: Array, seen: Array) -> Array:
    """Squares of all numbers: a key as any other, and a key by its weight."""
    square = np.square(x).sum(-1)
    return np.array([square.mean(), square @ seen])


def relative(got: Array, want: Array) -> Array:
    """Euclidean norm of each row's error, relative to the row's."""
    return np.asarray(np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1))
