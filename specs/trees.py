"""Trees of draft tokens: who stands below whom, and the forms in which a mask says so.

Node 0 is the root, the last token that was accepted; every other node hangs on an older one. A node sees the way from
the root to itself.
"""

from __future__ import annotations

import numpy as np

from kvconform.specs import data
from kvconform.specs.data import Array

SHAPES = ("bushy", "star", "bushy", "chain")
"""What trees of neighbouring sequences are in turn: no two of them are chains, in which a mask says nothing."""


def parents(seed: int, seq: int, size: int) -> Array:
    """[size] the node that each node of a sequence's tree hangs on; the root has itself.

    A bushy one is drawn, but its last node does not hang on the one before: it has two leaves at least.
    """
    node = np.arange(size)
    shape = SHAPES[(int(data.hashes(seed, "tree", np.arange(1))[0]) + seq) % len(SHAPES)]
    if shape == "star":
        return np.zeros_like(node)
    older = np.maximum(node - 1, 0)
    if shape == "bushy":
        choices = np.maximum(node - (node == size - 1), 1)
        older = (data.hashes(seed, "parent", np.full(size, seq), node) % choices.astype(np.uint64)).astype(node.dtype)
    return older


def ancestry(above: Array) -> Array:
    """bool [size, size]: whether a node (row) sees another (column), of the parents of each."""
    seen = np.eye(len(above), dtype=bool)
    for node in range(1, len(above)):
        seen[node] |= seen[above[node]]
    return seen


def by_sequence(mask: Array, q_lens: Array, kv_lens: Array) -> list[Array]:
    """Of each sequence bool [q_len, kv_len]: a mask of query tokens as one of all keys; all older keys are seen."""
    found, start = [], 0
    for size, num_keys in zip(q_lens.tolist(), kv_lens.tolist(), strict=True):
        rows, older = mask[start : start + size, :size], max(num_keys - size, 0)
        new = rows[:, size - (num_keys - older) :]  # of fewer keys than query tokens the newest ones
        found.append(np.concatenate([np.ones((size, older), bool), new], axis=1))
        start += size
    return found


def told(mask: Array, q_lens: Array, kv_lens: Array, form: str) -> Array:
    """A mask bool [num_q_rows, longest q_len] in the form that the convention `tree_mask_form` names."""
    if form == "tree":
        return mask
    return np.concatenate([rows.ravel() for rows in by_sequence(mask, q_lens, kv_lens)])
