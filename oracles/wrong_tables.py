"""Page tables that are taken for the given one: which page each of them has for a token.

A table that belongs to a kernel's own reading of it is known by its pages alone, whatever the layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.paged import PagedInputs
from kvconform.specs.row import SIDE_NAMES


def readings(x: PagedInputs, side: int, seq: Array, column: Array) -> dict[str, Array]:
    """What a wrong table says, in words -> the page that it has for each token.

    side          K or V
    seq, column   of each token: its sequence, and the column of the table that its page stands in
    """
    table, num_seqs = x.tables[side].astype(np.int64), len(x.tables[side])
    found = {
        "as if the pages of all sequences lay in order": np.cumsum([0, *x.pages_of])[seq] + column,
        "as if sequence i began at page i": seq + column,
        "as if every sequence had the pages 0, 1, 2 ...": column + 0,
        "those of the next sequence": table[(seq + 1) % num_seqs, column],
        "those of the first sequence": table[0 * seq, column],
    }
    if x.row.pairs_pages:
        found[f"those of {SIDE_NAMES[1 - side].upper()}"] = x.tables[1 - side].astype(np.int64)[seq, column]
    return found


def told(pages: Array, given: Array, wrong: Mapping[str, Array], by: str) -> str:
    """In words which pages tokens have instead of the given ones.

    wrong   what `readings` found;  by: what gives the page
    """
    bad = np.flatnonzero(pages != given)
    first = f"page {pages[bad[0]]} where {by} says {given[bad[0]]}"
    name = next((name for name, other in wrong.items() if np.array_equal(pages, other)), "")
    shift = np.unique(pages - given)
    if not name and len(shift) == 1:
        name = f"every page number is {abs(shift[0])} too {'high' if shift[0] > 0 else 'low'}"
    return f"{first}, {name}" if name else f"{first}, {len(bad)} of {len(pages)} elements on a wrong page"
