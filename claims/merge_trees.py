"""Partitions of keys, and the orders and trees in which the results of their parts are merged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations

import numpy as np

from kvconform.claims.split_attention import Join, Keys, Rows, State, attend, stacked
from kvconform.specs import data

Tree = int | tuple["Tree", ...]
"""A part by its number, or subtrees whose results are merged at once."""


def depth(tree: Tree) -> int:
    """Merges that one partial goes through."""
    return 0 if isinstance(tree, int) else 1 + max(depth(one) for one in tree)


def merged(tree: Tree, known: dict[Tree, State], merge: Join) -> State:
    """The result of a tree; `known` holds the parts' own results and learns every subtree's."""
    if tree not in known:
        assert not isinstance(tree, int), f"no result of part {tree}"
        known[tree] = merge(*stacked(merged(one, known, merge) for one in tree))
    return known[tree]


def every_merge(rows: Rows, merge: Join) -> Iterator[tuple[Tree, State, int]]:
    """(tree, result, number of parts) of every partition, with and without an empty part, every order and tree."""
    for partition in _set_partitions(list(range(rows.num_keys))):
        for parts in (partition, [*partition, []]):
            known: dict[Tree, State] = {i: attend(rows, np.array(part, int)) for i, part in enumerate(parts)}
            for order in permutations(range(len(parts))):
                for tree in {order, *_binary_trees(order)}:
                    yield tree, merged(tree, known, merge), len(parts)


def _set_partitions(keys: list[int]) -> Iterator[list[list[int]]]:
    if not keys:
        yield []
        return
    for rest in _set_partitions(keys[1:]):
        yield [[keys[0]], *rest]
        for i, part in enumerate(rest):
            yield [*rest[:i], [keys[0], *part], *rest[i + 1 :]]


def _binary_trees(order: tuple[int, ...]) -> Iterator[Tree]:
    if len(order) == 1:
        yield order[0]
    for cut in range(1, len(order)):
        for left in _binary_trees(order[:cut]):
            for right in _binary_trees(order[cut:]):
                yield left, right


def scattered(seed: int, num_keys: int, num_parts: int) -> list[Keys]:
    """Every key goes to a drawn part; some parts stay empty."""
    part_of = data.hashes(seed, f"part of {num_parts}", np.arange(num_keys)) % np.uint64(num_parts)
    return [np.flatnonzero(part_of == part) for part in range(num_parts)]


def contiguous(seed: int, num_keys: int, num_parts: int) -> list[Keys]:
    """The sequence is cut at drawn places; some parts are empty."""
    cuts = data.hashes(seed, f"cuts of {num_parts}", np.arange(num_parts - 1)) % np.uint64(num_keys + 1)
    ends = [0, *sorted(int(cut) for cut in cuts), num_keys]
    return [slice(a, b) for a, b in pairwise(ends)]


def some_trees(seed: int, num_parts: int) -> list[Tree]:
    """All at once, one after another, and two drawn at random."""
    chain: Tree = 0
    for part in range(1, num_parts):
        chain = (chain, part)
    return [tuple(range(num_parts)), chain, *(_drawn_tree(seed, draw, num_parts) for draw in range(2))]


def _drawn_tree(seed: int, draw: int, num_parts: int) -> Tree:
    left: list[Tree] = list(range(num_parts))
    for turn in range(num_parts - 1):
        first, second = (int(h) for h in data.hashes(seed, f"tree {draw} {num_parts} {turn}", np.arange(2)))
        one = left.pop(first % len(left))
        two = left.pop(second % len(left))
        left.append((one, two))
    return left[0]
