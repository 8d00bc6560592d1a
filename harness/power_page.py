"""docs/results/power.md: every fault against every law, made of the reports that `kvconform power --json` wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from kvconform.harness.power import Tried, best, to_kill, told
from kvconform.harness.reference import page_table

_HEAD = """# Power

Written by `kvconform power --page REPORT ...` of reports of `kvconform power --json REPORT`. A fault is a right kernel
with one step replaced; it stands in for the implementation's own, with its offers, conventions and declared arithmetic.
Each seed takes another cell of the offer. A figure is the number of cases, pinned ones first, up to the first that
violates, the median over seeds; `(2/5)`: with so many of the seeds alone; a dot: with none; nothing: the law says
nothing there. Seconds are those of the law that sees it after the fewest cases.
"""

Report = Mapping[str, Any]
Rows = dict[str, dict[str, list[Tried]]]
"""Fault -> law -> what was tried."""


def markdown(reports: Sequence[Report], laws: Sequence[str], faults: Collection[str]) -> str:
    """The whole page; reports of one implementation and as many seeds are joined.

    laws     every one, in their order
    faults   every one
    """
    parts: dict[tuple[str, int], list[Report]] = {}
    for report in reports:
        parts.setdefault((report["impl"], report["seeds"]), []).append(report)
    return "\n".join([_HEAD, *(text for of, some in parts.items() for text in _part(*of, some, laws, faults))])


def _part(
    impl: str, seeds: int, reports: Sequence[Report], laws: Sequence[str], faults: Collection[str]
) -> Iterator[str]:
    rows = {row["fault"]: row for report in reports for row in report["faults"]}
    seen: Rows = {name: _by_law(row["tried"]) for name, row in rows.items()}
    asked = [law for law in laws if any(law in of_laws for of_laws in seen.values())]
    counted = [name for name, row in rows.items() if not row["equivalent"]]
    found = [name for name in counted if best(seen[name]) is not None]
    command = f"kvconform power --impl {impl} --seeds {seeds}"
    if len(asked) == 1:
        command += f" --law {asked[0]}"
    of_seeds = f"{seeds} seed{'s' * (seeds > 1)}"
    reasons = {name: why for report in reports for name, why in report["left_out"].items()}
    untried = len({*faults} - {*rows, *reasons})
    yield f"## `{command}`\n\n{len(found)} of {len(counted)} faults are seen with each of {of_seeds}" + (
        f"; {untried} others were not tried.\n" if untried else ".\n"
    )
    of, of_law = f"{impl}, {of_seeds}", ("", "law", "faults seen", "that no other law sees")
    if len(asked) > 1:
        yield page_table(f"Laws: {of}", of_law, _of_laws(asked, counted, seen))
    of_fault = ("fault", *(str(n) for n in range(1, len(asked) + 1)), "seconds")
    yield page_table(f"Faults: {of}", of_fault, [_row(name, seen[name], asked) for name in rows])
    told_of = [f"- not seen with each seed: `{name}`" for name in counted if name not in found]
    proofs = ((name, row["equivalent"]) for name, row in rows.items() if row["equivalent"])
    told_of += [f"- not counted, nothing can tell it from a right kernel: `{name}`: {proof}" for name, proof in proofs]
    told_of += [f"- left out: `{name}`: {reason}" for name, reason in reasons.items()]
    if told_of:
        yield "\n".join(told_of) + "\n"


def _by_law(tried: Sequence[Mapping[str, Any]]) -> dict[str, list[Tried]]:
    of_laws: dict[str, list[Tried]] = {}
    for one in tried:
        of_laws.setdefault(one["law"], []).append(Tried(**one))
    return of_laws


def _of_laws(asked: Sequence[str], counted: Sequence[str], seen: Rows) -> list[tuple[str, ...]]:
    """Of each law how many faults it sees with every seed, and how many of these alone."""
    kills = {name: [law for law in asked if to_kill(seen[name].get(law, []))] for name in counted}
    all_of, alone = Counter(law for some in kills.values() for law in some), Counter[str]()
    for some in kills.values():
        alone.update(some if len(some) == 1 else ())
    return [(str(n), f"`{law}`", str(all_of[law]), str(alone[law])) for n, law in enumerate(asked, 1)]


def _row(name: str, of_laws: dict[str, list[Tried]], asked: Sequence[str]) -> tuple[str, ...]:
    soonest = best(of_laws)
    return (f"`{name}`", *(told(of_laws.get(law, [])) for law in asked), f"{soonest[1]:.2f}" if soonest else "-")
