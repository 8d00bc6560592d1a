"""docs/results/diagnosis.md: how many wrong layouts a diagnosis names, over every pair of rows, and which none can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kvconform.harness.reference import page_table
from kvconform.oracles.diagnosis.pairs import ALIKE, NAMED, NOT_NAMED, NOWHERE, OUTCOMES, Pair

_HEAD = """# Diagnosis

Written by `kvconform diagnose --pairs --markdown`. Every row of the layouts that an operation is specified for is
claimed, and every row there is is used in its place: planted in the buffers of the claimed one, in the first dtype that
both have, and diagnosed from calls alone. A pair counts as named where the sentence speaks against the claimed row, and
names the used one and none that lies elsewhere.

- other contents: the two store different parts or types, or buffers of other names; neither can pass for the other
- fits nowhere: the used row cannot be built in the buffers of the claimed one, in no size tried
- itself: the claimed row is used; nothing is said against it
- alike: both have every element in the same place, so that no cache tells them apart; nothing is said against it
- share: named, of those named and not named
"""

Judged = Sequence[tuple[Pair, str]]
"""Pairs, each with what became of it."""


def markdown(judged: Judged) -> str:
    """The whole page."""
    parts = [
        _HEAD,
        _counts(judged),
        _listed(judged, NOT_NAMED, "Not named", "Every pair of rows that differ is named."),
        _listed(judged, ALIKE, "Alike", "No two rows are the same places."),
        _listed(judged, NOWHERE, "Fits nowhere", "Every row of the same contents can be built in some size."),
    ]
    return "\n".join(parts)


def _counts(judged: Judged) -> str:
    rows = []
    for op in dict.fromkeys(pair.op for pair, _ in judged):
        counts = Counter(outcome for pair, outcome in judged if pair.op == op)
        asked = counts[NAMED] + counts[NOT_NAMED]
        share = f"{counts[NAMED] / asked:.1%}" if asked else "-"
        rows.append((f"`{op}`", str(counts.total()), *(str(counts[name]) for name in OUTCOMES), share))
    return page_table("How many are named", ("operation", "pairs", *OUTCOMES, "share"), rows)


def _listed(judged: Judged, outcome: str, title: str, none: str) -> str:
    """The pairs of one outcome, with the proof where there is one, and the operations in which it is theirs."""
    ops: dict[tuple[str, str, str], list[str]] = {}
    for pair, found in judged:
        if found == outcome:
            ops.setdefault((pair.claimed, pair.used, pair.proof), []).append(f"`{pair.op}`")
    if not ops:
        return f"## {title}\n\n{none}\n"
    heads = ("claimed", "used", "operations", "proof")[: 4 if outcome == ALIKE else 3]
    rows = [(claimed, used, ", ".join(names), proof)[: len(heads)] for (claimed, used, proof), names in ops.items()]
    return page_table(title, heads, rows)
