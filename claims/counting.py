"""Work, counted by numbers that count their own products.

Attention in plain Python: k, v and partial outputs are `Metered`, so that every q . k, p . v and weight . partial
leaves a trace, whatever the loops around it are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvconform.claims.split_attention import even_parts


@dataclass
class Meter:
    """Products so far."""

    products: int = 0


@dataclass(frozen=True)
class Metered:
    """A number that counts the products it takes part in."""

    value: float
    meter: Meter

    def __mul__(self, other: float) -> Metered:
        self.meter.products += 1
        return Metered(self.value * other, self.meter)

    def __add__(self, other: Metered) -> Metered:
        return Metered(self.value + other.value, self.meter)


Vector = Sequence[float]


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one computation: q . k and p . v of all splits together, and of merging them."""

    qk: Meter = field(default_factory=Meter)
    pv: Meter = field(default_factory=Meter)
    merging: Meter = field(default_factory=Meter)


Attention = Callable[[Sequence[Vector], Sequence[Vector], Sequence[Vector], int, Work], list[list[float]]]


def split_attention(
    queries: Sequence[Vector], keys: Sequence[Vector], values: Sequence[Vector], num_splits: int, work: Work
) -> list[list[float]]:
    """Every query over every split of the keys, merged by log-sum-exp; scores are not scaled."""
    parts = [part for part in even_parts(len(keys), num_splits) if part.start < part.stop]
    return [
        merge([attend(query, keys[part], values[part], work) for part in parts], work)
        if len(parts) > 1
        else attend(query, keys, values, work)[0]
        for query in queries
    ]


def attend(query: Vector, keys: Sequence[Vector], values: Sequence[Vector], work: Work) -> tuple[list[float], float]:
    """out and lse of one query over some keys."""
    scores = [_sum([Metered(x, work.qk) * y for x, y in zip(key, query, strict=True)]) for key in keys]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    total = math.fsum(weights)
    out = [
        _sum([Metered(x, work.pv) * weight for x, weight in zip(column, weights, strict=True)]) / total
        for column in zip(*values, strict=True)
    ]
    return out, top + math.log(total)


def merge(states: Sequence[tuple[list[float], float]], work: Work) -> list[float]:
    """Partial outputs weighted by exp(lse - the whole's lse)."""
    top = max(lse for _, lse in states)
    whole = top + math.log(math.fsum(math.exp(lse - top) for _, lse in states))
    weights = [math.exp(lse - whole) for _, lse in states]
    return [
        _sum([Metered(x, work.merging) * weight for x, weight in zip(column, weights, strict=True)])
        for column in zip(*(out for out, _ in states), strict=True)
    ]


def _sum(terms: Sequence[Metered]) -> float:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.value


def count(
    num_queries: int, num_keys: int, num_splits: int, dim: int, attention: Attention = split_attention
) -> tuple[int, int, int]:
    """Multiply-adds (q . k, p . v, merging) of an attention."""
    work = Work()
    vectors = [[math.sin(1 + i * dim + j) for j in range(dim)] for i in range(num_queries + 2 * num_keys)]
    queries, keys, values = vectors[:num_queries], vectors[num_queries:-num_keys], vectors[-num_keys:]
    attention(queries, keys, values, num_splits, work)
    return work.qk.products, work.pv.products, work.merging.products
