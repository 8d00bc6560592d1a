"""The section of docs/layouts.md on page tables, generated from `specs/tables.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kvconform.oracles.tables import WRONG_READERS, EmptyRow, empty_sequence_table
from kvconform.specs.table import Table
from kvconform.specs.tables import TABLES

_HEAD = """## Page tables

What tells a kernel where the tokens of a sequence are. All forms say the same; `specs/tables.py` writes, reads and
converts them, and refuses what a form cannot say.
"""


def table_section() -> str:
    """The whole section: every table, and what each conversion does to an empty sequence."""
    rows = empty_sequence_table()
    lines = [_HEAD, *(_told(table) for table in TABLES.values()), "### Empty sequences", ""]
    lines += [_conversions(row for row in rows if not row.reader), "", *_wrong_readers([r for r in rows if r.reader])]
    return "\n".join([*lines, ""])


def _told(table: Table) -> str:
    arrays = [f"- `{name}` {one.dtype} [{', '.join(one.axes)}]: {one.meaning}" for name, one in table.arrays.items()]
    facts = {
        "an empty sequence": table.empty,
        "cannot say": table.cannot,
        "sentinels": table.sentinels,
        "source": table.source,
    }
    return "\n".join(
        [f"### Table {table.name}", "", *arrays, *(f"- {name}: {text}" for name, text in facts.items() if text), ""]
    )


def _conversions(rows: Iterable[EmptyRow]) -> str:
    found = list(rows)
    kept = Counter(set(row.outcomes.values()) == {"kept"} for row in found)
    pairs = len({(row.source, row.target) for row in found})
    text = (
        f"Each of the {pairs} conversions was tried with an empty sequence in front, in the middle, last, and with "
        f"nothing but empty ones (for `csr` with a last_page_len of 1 and of 0): "
    )
    if not kept[False]:
        return text + "kv_len 0 survives all of them, and the other sequences keep their pages."
    lost = [f"{row.source} to {row.target}" for row in found if set(row.outcomes.values()) != {"kept"}]
    return text + f"it does not survive {', '.join(lost)}."


def _wrong_readers(rows: list[EmptyRow]) -> list[str]:
    places = list(rows[0].outcomes)
    lines = [
        "Readers that are not the table's, found in somebody's code or likely there, make of them:",
        "",
        f"| reader | table | last_page_len | {' | '.join(places)} | where |",
        "|" + "---|" * (4 + len(places)),
    ]
    for row in rows:
        last = "" if row.last_page_len is None else str(row.last_page_len)
        read = " | ".join(row.outcomes[place] for place in places)
        lines.append(f"| `{row.reader}` | {row.target} | {last} | {read} | {WRONG_READERS[row.reader].source} |")
    return lines
