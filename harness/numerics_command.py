"""`kvconform numerics`: searches for false alarms of the error bound, and measures how much of it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from kvconform.harness.adapters import ROOT, AdapterError, Found, everything, find, nearest
from kvconform.harness.laws import all_laws
from kvconform.harness.numerics_search import measure_adapter
from kvconform.numerics import campaign, page
from kvconform.numerics.emulators import Emulator, emulators
from kvconform.numerics.measured import Measured

SCHEMA = 1
"""Number of the JSON report's form."""

Target = Emulator | Found

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


@click.command()
@click.option(
    "--impl",
    "names",
    multiple=True,
    metavar="NAME",
    help="An emulated kernel, or an implementation as `run` takes it; repeatable.  [default: every emulated kernel]",
)
@click.option(
    "--all",
    "everybody",
    is_flag=True,
    help="Also every implementation that this machine can run; some are interpreted, and take minutes.",
)
@click.option(
    "--elements",
    type=click.IntRange(min=1),
    default=200_000,
    show_default=True,
    help="Outputs to judge, shared among those searched.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every drawn input.")
@click.option(
    "--climb",
    "climb_seconds",
    type=click.FloatRange(min=0),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for hill climbing, shared among the emulated kernels.",
)
@click.option(
    "--case", "case", metavar="CASE", help="Judge one case of one emulated kernel again: 'search 12', 'climb 3'."
)
@click.option(
    "--markdown",
    "page_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Print the generated parts of docs/numerics.md instead; with FILE, replace them there.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows as JSON.")
def numerics(
    names: tuple[str, ...],
    everybody: bool,
    elements: int,
    seed: int,
    climb_seconds: float,
    case: str | None,
    page_file: str | None,
    json_file: Path | None,
) -> int:
    """Search for correct kernels that the error bound would condemn.

    Every implementation here is right, so any output outside its bound is a false alarm of the suite's own. Kernels
    emulated one rounding at a time get random inputs of many kinds, and then inputs that a hill climb makes worse and
    worse; implementations behind adapters get the cases of `decode_is_within_the_bound`, known violations left out.

    \b
    kvconform numerics                                         every emulated kernel, in about a minute
    kvconform numerics --impl "bfloat16 P summed"              one emulated kernel
    kvconform numerics --impl torch_sdpa_math --climb 0        one implementation, a row for each dtype
    kvconform numerics --impl "float8 P" --case "climb 3"      one case again, with its numbers
    kvconform numerics --all --markdown docs/numerics.md       the page's tables, measured anew

    The table shows, of out and of lse, the worst and the median share of (bound + half an ulp of the result) that a
    case's worst element uses. `sees` is the resolution: the change of a key's weight, as a share of all weight, that a
    typical element shows. Where the worst case is more than ten times below the bound, the last column names the stage
    that most of the bound comes from. Exit codes: 0 no false alarm, 1 there is one, 2 bad usage.
    """
    targets = _chosen(names, everybody)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise AdapterError(f"--json {json_file}: there is no folder {json_file.parent}")
    if page_file not in (None, "-") and not Path(str(page_file)).is_file():
        raise AdapterError(f"--markdown {page_file}: no such page")
    if case is not None:
        return _again(targets, case, seed)
    start = time.perf_counter()
    rows = _measured(targets, elements, seed, climb_seconds)
    if json_file is not None:
        data = {"schema": SCHEMA, "seed": seed, "rows": [row.to_json() for row in rows]}
        json_file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if page_file is not None:
        asked = "".join(f"--impl '{name}' " for name in names) + "--all " * everybody
        _write(
            page_file, rows, f"kvconform numerics {asked}--elements {elements} --climb {climb_seconds:g} --seed {seed}"
        )
    else:
        Console(width=None if out.is_terminal else max(out.width, 120)).print(_table(rows))
    for row in rows:
        for alarm in row.alarms:
            out.print(_alarm(row, alarm, seed), highlight=False)
    err.print(f"{time.perf_counter() - start:.1f} s", style="dim", highlight=False)
    return int(any(row.alarms for row in rows))


def _chosen(names: Sequence[str], everybody: bool) -> list[Target]:
    """What is asked for."""
    emulated = {one.name: one for one in emulators()}
    named: list[Target] = [emulated[name] if name in emulated else _found(name, emulated) for name in names]
    if not names:
        named = list(emulated.values())
    if everybody:
        named += [found for found in everything() if _decodes(found)]
    return list({one.name: one for one in named}.values())


def _found(name: str, emulated: dict[str, Emulator]) -> Found:
    try:
        return find(name)
    except AdapterError as e:
        if "/" in name or name.endswith(".py"):
            raise
        raise AdapterError(f"{e}; of the emulated kernels{nearest(name, emulated).removeprefix(';')}") from e


def _decodes(found: Found) -> bool:
    return "def paged_decode" in found.path.read_text(encoding="utf-8")


def _measured(targets: Sequence[Target], elements: int, seed: int, climb_seconds: float) -> list[Measured]:
    each = -(-elements // len(targets))
    climbers = sum(isinstance(one, Emulator) for one in targets)
    rows: list[Measured] = []
    with _progress(len(targets)) as step:
        for one in targets:
            step(one.name)
            if isinstance(one, Emulator):
                rows.append(campaign.measure(one, each, seed, climb_seconds / climbers))
            elif len(targets) == 1:
                rows += _of_adapter(one, each, seed)
            else:
                rows += _in_a_child(one, each, seed)
    return rows


def _of_adapter(found: Found, elements: int, seed: int) -> list[Measured]:
    return measure_adapter(found, all_laws(), elements, seed)


def _in_a_child(found: Found, elements: int, seed: int) -> list[Measured]:
    """The rows of an implementation, from a process of its own: kernels of two frameworks do not always mix."""
    with tempfile.TemporaryDirectory(prefix="kvconform-") as folder:
        report = Path(folder) / "rows.json"
        options = {"impl": found.ref, "elements": elements, "seed": seed, "climb": 0, "json": report}
        command = [
            sys.executable,
            "-P",
            str(ROOT / "__main__.py"),
            "numerics",
            *(f"--{k}={v}" for k, v in options.items()),
        ]
        child = subprocess.run(command, env=os.environ | found.literals["ENV"], capture_output=True, text=True)
        if not report.is_file():
            said = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
            return [Measured(found.name, "", note=f"not measured: {said}")]
        return [Measured.from_json(row) for row in json.loads(report.read_text(encoding="utf-8"))["rows"]]


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Called with the name of what is searched next: a bar on a terminal, a line elsewhere."""
    columns = (TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TextColumn("searched"))
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=total, completed=-1)

        def step(name: str) -> None:
            progress.update(task, description=name, advance=1)
            if not err.is_terminal:
                err.print(f"{name} ...", highlight=False)

        yield step


def _table(rows: Sequence[Measured]) -> Table:
    """One row each; what it declares is on the page and in the JSON."""
    grid = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ("implementation", "elements", "worst", "median", "worst", "median", "alarms", "sees", "slack above 10")
    for head, over in zip(heads, ("", "", "out", "out", "lse", "lse", "", "", ""), strict=True):
        left = head in (heads[0], heads[-1])
        grid.add_column(f"{over}\n{head}", justify="left" if left else "right", no_wrap=head != heads[-1])
    for row in rows:
        if row.note:
            grid.add_row(Text(row.name, style="dim"), *[""] * 7, Text(row.note, style="dim"))
        else:
            grid.add_row(Text(row.name, style="bold"), str(row.elements), *page.cells(row)[2:])
    return grid


def _alarm(row: Measured, alarm: str, seed: int) -> Text:
    text = (
        Text("\nfalse alarm ", style="bold red").append(row.name, "bold").append(f"\n  {alarm}\n", "not bold default")
    )
    if "\n" not in alarm:  # a case by its number; an implementation's alarm ends with its own line
        again = f"kvconform numerics --impl '{row.name}' --seed {seed} --case '{alarm}'"
        text.append(f"  again   {again}", "not bold default")
    return text


def _again(targets: Sequence[Target], case: str, seed: int) -> int:
    (one, *others) = targets
    if others or not isinstance(one, Emulator):
        raise AdapterError("--case judges one emulated kernel again: name it with --impl")
    try:
        judged = campaign.again(one, case, seed)
    except ValueError as e:
        raise AdapterError(str(e)) from e
    if judged is None:
        out.print(f"{case}: outside the domain of {one.name}", highlight=False)
        return 0
    row, want = judged.row, judged.want
    told = {"q": row.q, "k": row.k, "v": row.v, "sm_scale": row.sm_scale, "bias": row.bias, "soft_cap": row.soft_cap}
    told |= {} if row.sink is None else {"sink": row.sink}
    told |= {"out": judged.result[0], "exact": want.out, "bound": want.out_error}
    told |= {
        "lse": judged.result[1],
        "exact lse": want.lse,
        "bound of lse": want.lse_error,
        "of the bound": judged.ratios,
    }
    for name, value in told.items():
        out.print(Text(f"{name:<14}{value}".replace("\n", "\n" + " " * 14)), highlight=False)
    return int(not judged.admitted)


def _write(page_file: str, rows: Sequence[Measured], command: str) -> None:
    parts = {**page.static_parts(), "searches": page.measured_table(rows, command)}
    if page_file == "-":
        click.echo("\n\n".join(page.wrapped(name, text) for name, text in parts.items()))
        return
    path = Path(page_file)
    try:
        path.write_text(page.filled(path.read_text(encoding="utf-8"), parts), encoding="utf-8")
    except ValueError as e:
        raise AdapterError(f"--markdown {page_file}: {e}") from e
