"""`kvconform power`: which faults the suite sees in what an implementation offers, by which law, and how soon."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kvconform.faults.every import FAULTS
from kvconform.faults.fault import Fault
from kvconform.harness import power_page
from kvconform.harness.adapters import AdapterError, find, nearest
from kvconform.harness.booking import BAD_EXIT, OK_EXIT
from kvconform.harness.laws import all_laws
from kvconform.harness.power import OP, Tried, best, made, told, tried
from kvconform.harness.subject import Subject
from kvconform.suites.law import Law

T = TypeVar("T")

out, err = Console(soft_wrap=True), Console(stderr=True)


@click.command("power")
@click.option("--impl", default="numpy_ref", show_default=True, metavar="NAME", help="Whose offer is tried.")
@click.option("--fault", "names", multiple=True, metavar="FAULT", help="Only this fault; may be repeated.")
@click.option("--law", "law_names", multiple=True, metavar="LAW", help="Only this law; may be repeated.")
@click.option("--layout", "layouts", multiple=True, metavar="LAYOUT", help="Only this layout; may be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each fault and law.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write every figure.")
@click.option(
    "--page",
    "reports",
    multiple=True,
    metavar="REPORT",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Print docs/results/power.md of what --json wrote, and try nothing; may be repeated.",
)
def power_command(
    impl: str,
    names: tuple[str, ...],
    law_names: tuple[str, ...],
    layouts: tuple[str, ...],
    seeds: int,
    json_file: Path | None,
    reports: tuple[Path, ...],
) -> int:
    """Try every fault against every law of attention, and print how many cases and seconds each takes to see it.

    \b
    kvconform power --layout nhd                     of the reference, on one layout
    kvconform power --impl my_adapter.py             of what your kernel offers and declares
    kvconform power --fault window_is_one_wider      one fault

    A fault is a right kernel with one step replaced (faults/), which stands in for the implementation's own: with its
    offers, conventions and declared arithmetic, since these decide what is drawn and how wide the bound is. Faults that
    nothing can tell from a right kernel say why, and are not counted; faults that the offer has no room for are left
    out with the reason. Each seed takes another cell.

    Exit codes: 0 some law sees every fault with each seed; 1 one is not seen; 2 bad usage or a bad adapter.
    """
    if reports:
        written = [json.loads(file.read_text("utf-8")) for file in reports]
        click.echo(power_page.markdown(written, list(all_laws()), FAULTS), nl=False)
        return OK_EXIT
    faults = _named("fault", names, FAULTS)
    laws = {name: law for name, law in _named("law", law_names, all_laws()).items() if law.op == OP}
    found = find(impl)
    subject = Subject(found.load(), found.name, str(found.path))
    reasons = {name: made(fault, subject) for name, fault in faults.items()}
    some = [fault for name, fault in faults.items() if not reasons[name]]
    if not some:
        raise AdapterError(f"{impl} cannot have any of these faults: {next(iter(reasons.values()))}")
    results = _try(subject, some, laws, range(seeds), layouts)
    _print(some, laws, results)
    for name, reason in reasons.items():
        if reason:
            out.print(Text(f"left out  {name}: {reason}", style="dim"), highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(_document(impl, some, reasons, results, seeds), indent=1) + "\n", "utf-8")
    unseen = [fault.name for fault in some if not fault.equivalent and best(results[fault.name]) is None]
    counted = sum(not fault.equivalent for fault in some)
    out.print(f"{counted - len(unseen)} of {counted} faults are seen with each of {seeds} seeds", highlight=False)
    return BAD_EXIT if unseen else OK_EXIT


def _named(kind: str, names: Sequence[str], table: dict[str, T]) -> dict[str, T]:
    for name in names:
        if name not in table:
            raise AdapterError(f"no {kind} {name!r}{nearest(name, table)}")
    return {name: table[name] for name in names} if names else dict(table)


Results = dict[str, dict[str, list[Tried]]]
"""Fault -> law -> what was tried, a seed each."""


def _try(
    subject: Subject, faults: Sequence[Fault], laws: dict[str, Law], seeds: range, layouts: tuple[str, ...]
) -> Results:
    results: Results = {fault.name: defaultdict(list) for fault in faults}
    columns = (TextColumn("{task.description:<46}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=len(faults) * len(seeds))
        for fault in faults:
            progress.update(task, description=fault.name)
            for seed in seeds:
                for one in tried(subject, fault, laws, seed, layouts):
                    results[fault.name][one.law].append(one)
                progress.advance(task)
    return results


def _print(faults: Sequence[Fault], laws: dict[str, Law], results: Results) -> None:
    columns = [law for law in laws if any(results[fault.name].get(law) for fault in faults)]
    for number, law in enumerate(columns, 1):
        out.print(f"{number:>3}  {law}", highlight=False)
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("fault\n", no_wrap=True)
    for number in range(1, len(columns) + 1):
        grid.add_column(f"cases\n{number}" if number == 1 else f"\n{number}", justify="right")
    grid.add_column("seconds\nof the first", justify="right")
    for fault in faults:
        of_laws, soonest = results[fault.name], best(results[fault.name])
        cells = [told(of_laws.get(law, [])) for law in columns]
        style = "dim" if fault.equivalent else "" if soonest else "bold red"
        grid.add_row(Text(fault.name, style=style), *cells, f"{soonest[1]:.2f}" if soonest else "-")
    Console(width=max(out.width, 60 + 7 * len(columns))).print(grid)
    for fault in faults:
        if fault.equivalent:
            out.print(Text(f"not counted  {fault.name}: {fault.equivalent}", style="dim"), highlight=False)


def _document(
    impl: str, faults: Sequence[Fault], reasons: dict[str, str], results: Results, seeds: int
) -> dict[str, object]:
    rows = [
        {
            "fault": fault.name,
            "source": fault.source,
            "equivalent": fault.equivalent,
            "tried": [asdict(one) for some in results[fault.name].values() for one in some],
        }
        for fault in faults
    ]
    return {"impl": impl, "seeds": seeds, "faults": rows, "left_out": {n: r for n, r in reasons.items() if r}}
