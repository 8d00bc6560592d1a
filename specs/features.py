"""The features of attention: what may be added to softmax over all keys, one row each, and what each does to a score.

Per query row and key, of the same head:

    t = sm_scale q.k,   s = soft_cap tanh(t / soft_cap) + slope * (key's position - an origin),   masked: -inf

A key is masked where it is newer than the query's own position or older than its window. Query tokens are the newest
of their sequence: the last one stands at position kv_len - 1, or, by the convention `causal`, the first one at 0.
Under a tree mask a query token sees of the query tokens its ancestors and itself alone; positions are those of slots
all the same, for windows and for ALiBi. A sink is one more key of a given score, whose value is zero. What systems
decide for themselves about each is a convention (specs/conventions.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, combinations, product
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One row: an axis of a Case, the keyword of attention of the same name, and the axis of OFFERS.

    off      value of the axis at which there is no such thing; what an adapter that is silent takes
    values   others that are drawn, simplest first
    claim    what it does
    beside   another axis -> the least value of it beside which there can be such a thing
    """

    name: str
    off: Any
    values: tuple[Any, ...]
    claim: str
    beside: Mapping[str, int] = field(default_factory=dict)

    @property
    def pool(self) -> tuple[Any, ...]:
        """What is drawn, simplest first."""
        return (self.off, *self.values)


FEATURES: dict[str, Feature] = {
    row.name: row
    for row in (
        Feature(
            name="window",
            off=0,
            values=(3, 1, 8, 17),
            claim="a query sees so many keys at most, its own among them: the newest",
        ),
        Feature(
            name="soft_cap",
            off=0.0,
            values=(2.0, 50.0),
            claim="scores are bent into (-soft_cap, soft_cap) by tanh",
        ),
        Feature(
            name="sinks",
            off="none",
            values=("drawn", "dominant"),
            claim="each q head has one more key, of a score of its own, whose value is zero",
        ),
        Feature(
            name="alibi_slopes",
            off="none",
            values=("drawn",),
            claim="a score gains its q head's slope times the distance of its key",
        ),
        Feature(
            name="q_lens",
            off=1,
            values=(2, 3, 5),
            claim="a sequence has several query tokens, its newest, each of which sees what is not newer than itself",
        ),
        Feature(
            name="tree_mask",
            off="none",
            values=("drawn",),
            claim="query tokens are a tree of drafts: of each other they see their ancestors alone",
            beside={"q_lens": 3},  # the first one is the root: a tree of two is a chain
        ),
    )
}
"""Every feature, simplest first."""

OFF: dict[str, tuple[Any, ...]] = {name: (row.off,) for name, row in FEATURES.items()}
"""What a law restricts itself to that is about plain attention."""


def alone(*kept: str) -> dict[str, tuple[Any, ...]]:
    """`OFF` but for some features."""
    return {name: values for name, values in OFF.items() if name not in kept}


def from_the_first_key(causal: str, q_lens: tuple[int, ...], tree_mask: str) -> bool:
    """Whether query tokens stand at the first keys of their sequence, by the convention `causal`; else at the last.

    One query token a sequence is its newest, and so are those of a tree, whose mask has a column for each.
    """
    return causal == "top_left" and bool(q_lens) and tree_mask == "none"


def possible(row: Mapping[str, Any]) -> bool:
    """Whether every feature that is on in a combination has what it needs beside it; what is not said yet may come."""
    on = [FEATURES[name] for name in row if name in FEATURES and row[name] != FEATURES[name].off]
    return all(row.get(axis, least) >= least for feature in on for axis, least in feature.beside.items())


@cache
def _covering(pools: tuple[tuple[str, tuple[Any, ...]], ...]) -> tuple[dict[str, Any], ...]:
    names = [name for name, _ in pools]
    most = {name: max(some) for name, some in pools if all(isinstance(value, int) for value in some)}
    pools = tuple((name, tuple(v for v in some if possible(most | {name: v}))) for name, some in pools)
    simplest = {name: some[0] for name, some in pools}
    rows = [simplest]
    left = {
        frozenset((a, b))
        for (one, some), (other, others) in combinations(pools, 2)
        for a, b in product(((one, v) for v in some), ((other, v) for v in others))
    }
    left = {pair for pair in left if possible(dict(pair))}
    left |= {frozenset([(name, v)]) for name, some in pools for v in some}
    left -= set(_pairs(simplest))
    while left:
        row: dict[str, Any] = {}
        later = Counter(chain.from_iterable(left))
        pairs = Counter(name for pair in left for name in dict(pair))
        for name in sorted(names, key=lambda n: (not _asks(n), -pairs[n])):
            fits = [v for v in dict(pools)[name] if possible(row | {name: v})]
            row[name] = max(fits, key=lambda v: (_newly(left, row, (name, v)), later[name, v]))
        left -= set(_pairs(row))
        rows.append({name: row[name] for name in names})
    return tuple(rows)


def _asks(name: str) -> bool:
    """Whether what is on along an axis needs something beside it: it is chosen first, for that to follow."""
    return name in FEATURES and bool(FEATURES[name].beside)


def _newly(left: set[frozenset[Any]], row: Mapping[str, Any], chosen: tuple[str, Any]) -> int:
    """Pairs not yet covered that a choice beside those of a row covers."""
    return sum(frozenset(pair) in left for pair in ((chosen,), *((chosen, one) for one in row.items())))


def _pairs(row: Mapping[str, Any]) -> Iterator[frozenset[Any]]:
    yield from (frozenset(pair) for pair in combinations(row.items(), 2))
    yield from (frozenset([one]) for one in row.items())


def covering(pools: Mapping[str, tuple[Any, ...]]) -> tuple[dict[str, Any], ...]:
    """Rows in which any two values of two axes meet that can: a pairwise covering schedule, the same in every run."""
    return _covering(tuple((name, tuple(some)) for name, some in pools.items()))
