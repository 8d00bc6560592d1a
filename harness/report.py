"""What people read: one table, every red cell as a paste, and the JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import kvconform
from kvconform.harness.adapters import AdapterError
from kvconform.harness.booking import (
    BAD,
    CONFORMS,
    DOUBTFUL,
    EXPECTED,
    LEFT,
    NOT_OFFERED,
    NOT_REACHED,
    OUTCOMES,
    UNTRIED,
    Booked,
    Run,
    attested,
    paste,
    paste_doubt,
    unassigned,
    worst,
)
from kvconform.harness.laws import all_laws
from kvconform.harness.where_time_goes import time_line
from kvconform.specs.operations import OPERATIONS

SCHEMA = 1
"""Number of the JSON report's form."""

_STYLE = {
    CONFORMS: "green",
    EXPECTED: "yellow",
    DOUBTFUL: "yellow",
    NOT_OFFERED: "dim",
    LEFT: "dim",
    NOT_REACHED: "red",
} | dict.fromkeys(BAD, "bold red")
SHOWN_CELLS = 3
"""Red cells of one law that are printed in full; the rest are named."""


class Bars:
    """Progress on stderr: a bar an implementation on a terminal, a line an implementation elsewhere.

    Told from a thread for each implementation that is judged at the time.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
        )
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
        self._console, self._tasks = console, {}  # type: ignore[var-annotated]

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def planned(self, run: Run) -> None:
        """Show how much there is to do."""
        if id(run) in self._tasks:  # by another child; two may have one name
            return
        total = sum(cell.outcome not in UNTRIED for cell in run.cells.values())
        self._tasks[id(run)] = self._progress.add_task(run.name, total=total)
        if not self._console.is_terminal:
            self._console.print(f"{run.name}: {total} cells ...")

    def closed(self, run: Run, cell: Booked) -> None:
        """Move on by one."""
        self._progress.advance(self._tasks[id(run)])


def table(runs: Sequence[Run]) -> Table:
    """Implementations and operations down, outcomes across, cells counted; what never occurred has no column.

    Doubtful cells are counted once more, behind their outcomes.
    """
    rows = [
        (run, op, _counts([c for c in run.cells.values() if c.op in (op, "*")])) for run in runs for op in OPERATIONS
    ]
    rows = [row for row in rows if row[2]]
    seen = [word for word in (*OUTCOMES, DOUBTFUL) if any(counts[word] for _, _, counts in rows)]
    grid = Table(title="cells (layout x dtype x law)", title_justify="left", header_style="bold")
    grid.add_column("implementation")
    grid.add_column("operation", no_wrap=True)
    for outcome in seen:
        grid.add_column(outcome, justify="right", style=_STYLE.get(outcome))
    shown = None
    for run, op, counts in rows:
        if run is not shown:
            grid.add_section()
        grid.add_row("" if run is shown else _who(run), op, *(str(counts[o] or "") for o in seen))
        shown = run
    return grid


def _counts(cells: Sequence[Booked]) -> Counter[str]:
    return Counter([c.outcome for c in cells] + [DOUBTFUL for c in cells if c.doubt])


def _who(run: Run) -> Text:
    name = Text(run.name, style="bold")
    mode = run.attested.get("mode", "")
    return name.append(f" ({mode})" if mode else "", style="dim")


def details(run: Run) -> list[Text]:
    """Red cells, law by law with what each claims, expected ones, and doubtful ones."""
    out, laws = [], all_laws()
    if run.message:
        out.append(Text(f"{run.name}: {run.message}", style="red" if run.exit else ""))
    by_law: dict[tuple[str, str], list[Booked]] = {}
    for cell in run.cells.values():
        if cell.outcome in BAD or cell.outcome == NOT_REACHED:
            by_law.setdefault((cell.law, cell.outcome), []).append(cell)
    for (law, outcome), cells in by_law.items():
        out.append(Text(f"{run.name} {outcome} {law} in {len(cells)} cell(s)", style=_STYLE[outcome]))
        out += [Text(f"  {laws[law].claim}", style="dim")] if law in laws else []
        out += [Text(paste(cell)) for cell in cells[:SHOWN_CELLS]]
        if cells[SHOWN_CELLS:]:
            rest = ", ".join(f"{c.layout}/{c.dtype}" for c in cells[SHOWN_CELLS:])
            out.append(Text(f"  and {rest}", style="dim"))
    known: dict[tuple[str, str, str], list[Booked]] = {}
    for cell in run.cells.values():
        if cell.outcome == EXPECTED:
            how = f"{EXPECTED} (entire law)" if cell.entire_law else EXPECTED
            known.setdefault((how, cell.law, cell.message), []).append(cell)
    for (how, law, reason), cells in known.items():
        names = ", ".join(f"{c.layout}/{c.dtype}" for c in cells)
        out.append(Text(f"{run.name} {how} {law} ({names}): {reason}", style="yellow"))
    doubted: dict[str, list[Booked]] = {}
    for cell in run.cells.values():
        if cell.doubt:
            doubted.setdefault(cell.law, []).append(cell)
    for law, cells in doubted.items():
        out.append(Text(f"{run.name} {DOUBTFUL} {law} in {len(cells)} cell(s), which pass", style="yellow"))
        out += [Text(paste_doubt(cell)) for cell in cells[:SHOWN_CELLS]]
        if cells[SHOWN_CELLS:]:
            rest = ", ".join(f"{c.layout}/{c.dtype}" for c in cells[SHOWN_CELLS:])
            out.append(Text(f"  and {rest}", style="dim"))
    return out


def footer(run: Run) -> str:
    """Speed and resolution of one run."""
    cells = [c for c in run.cells.values() if c.outcome not in UNTRIED]
    examples, inside = sum(c.examples for c in cells), sum(c.inside_seconds for c in cells)
    busy = sum(c.seconds for c in cells)
    line = f"{run.name}: {examples} examples in {run.seconds:.1f} s"
    if run.processes > 1:
        line += f" in {run.processes} processes"
    if busy:
        each = " each" if run.processes > 1 else ""
        line += f", {examples / busy:.0f} examples/s{each}, {inside / busy:.0%} of the time inside the implementation"
    seen = [c.resolution for c in cells if c.resolution is not None]
    if seen:
        line += f"; {_resolutions(seen)}"
    if run.attested:
        line += f"; {attested(run.attested)}"
    if run.time:
        line += f"; {time_line(run.time)}"
    if run.apart:
        line += f"; {unassigned(run.apart)}"
    turns = sum(c.planned < c.whole for c in cells)
    line += f"; {turns} cells take turns, each with a part of the cases" if turns else ""
    left = sum(c.outcome == LEFT for c in run.cells.values())
    line += f"; {left} {'cells are' if left > 1 else 'cell is'} left to longer runs" if left else ""
    cut = sum(c.message.startswith("cut short") for c in cells)
    return line + (f"; {cut} cells cut short by the time limit" if cut else "")


def _resolutions(seen: Sequence[float]) -> str:
    """How much a key's weight has to change to be seen: in the cell that sees most, and in that which sees least.

    No weight changes by 1, so that a cell of such a figure, whose few cases are dominated by one key each, sees none.
    """
    some = [one for one in seen if one < 1]
    if not some:
        return "sees no key's weight change"
    line, blind = f"sees a key's weight change by {min(some):.1g} to {max(some):.1g}", len(seen) - len(some)
    return line + (f"; {blind} {'cells see' if blind > 1 else 'cell sees'} none" if blind else "")


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Counts of outcomes and the exit code."""
    counts = Counter(cell.outcome for run in runs for cell in run.cells.values())
    return {"outcomes": {o: counts[o] for o in OUTCOMES if counts[o]}, "exit": exit_code(runs)}


def exit_code(runs: Sequence[Run], *, blocked_is_fine: bool = False) -> int:
    """The exit code of a run over several implementations."""
    return worst([run.code for run in runs if not (blocked_is_fine and "*" in run.cells)])


def read_json(path: Path) -> dict[str, Any]:
    """A report that `write_json` wrote. Raises AdapterError."""
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as e:
        raise AdapterError(f"{path}: cannot be read as a report: {e}") from e
    if report.get("schema") != SCHEMA or "cells" not in report:
        raise AdapterError(f"{path}: a report of schema {report.get('schema')!r}; this kvconform reads {SCHEMA}")
    return report


def write_json(path: Path, runs: Sequence[Run], code: int) -> None:
    """`{"schema", "suite", "impls", "cells", "summary"}`; two runs from one seed differ in times alone."""
    impls = [
        {
            "impl": run.name,
            "ref": run.ref,
            "backend": run.backend,
            "versions": run.versions,
            "attested": run.attested,
            "conventions": run.conventions,
            "exit": run.code,
            "message": run.message,
            "seconds": round(run.seconds, 3),
            "time": run.time,
            "apart": run.apart,
        }
        for run in runs
    ]
    cells = [cell.to_json() for run in runs for cell in run.cells.values()]
    document = {
        "schema": SCHEMA,
        "suite": kvconform.__version__,
        "impls": impls,
        "cells": cells,
        "summary": summary(runs) | {"exit": code},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
