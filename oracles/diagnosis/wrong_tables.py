"""Pages that tokens have where a kernel takes another table for the given one, whatever the layout."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.paged import PagedInputs
from kvconform.specs.row import SIDE_NAMES


def readings(x: PagedInputs, side: int, seq: Array, column: Array) -> dict[str, Array]:
    """What a wrong table is like, in words -> the page that it has for each token.

    side          K or V
    seq, column   of each token: its sequence, and the column of the table that its page stands in
    """
    table, num_seqs = x.tables[side].astype(np.int64), len(x.tables[side])
    found = {
        "as if each sequence had the pages of the first one": table[0 * seq, column],
        "as if each sequence had the pages of the next one": table[(seq + 1) % num_seqs, column],
        "as if the pages of all sequences lay in order": np.cumsum([0, *x.pages_of])[seq] + column,
        "as if sequence i began at page i": seq + column,
        "as if every sequence had pages 0, 1, 2 ...": column + 0,
    }
    if x.row.pairs_pages:
        own, other = (SIDE_NAMES[one].upper() for one in (side, 1 - side))
        found[f"as if {own} had the pages of {other}"] = x.tables[1 - side].astype(np.int64)[seq, column]
    return found


def told(pages: Array, given: Array, wrong: Mapping[str, Array], num_pages: int, by: str) -> str:
    """In words which pages tokens have instead of the given ones.

    wrong   what `readings` found
    by      what gives the page: the table, the slot
    """
    bad = np.flatnonzero(pages != given)
    name = next((name for name, other in wrong.items() if np.array_equal(pages, other)), "")
    shift = set(((pages - given) % num_pages).tolist())
    if not name and len(shift) == 1:
        more = shift.pop()
        name = (
            f"every page number {more} too high" if 2 * more <= num_pages else f"every one {num_pages - more} too low"
        )
    return f"on page {pages[bad[0]]} where {by} says {given[bad[0]]}" + (f", {name}" if name else "")
