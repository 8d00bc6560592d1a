"""`kvconform claims`: judges what other systems claim, and shows the figures that decide."""

from __future__ import annotations

import importlib.util
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

import kvconform
from kvconform.harness.adapters import AdapterError, nearest

if TYPE_CHECKING:
    from kvconform.claims.claim import Claim, Judged

SCHEMA = 1
"""Number of the JSON report's form."""

_STYLE = {"confirmed": "green", "refuted": "bold red"}

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option("--system", type=int, help="Only claims of this system.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write verdicts as JSON.")
@click.option("--markdown", is_flag=True, help="Print docs/claims.md instead of the table.")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the picture of the claim that is named (.svg or .png).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every drawn input.")
def claims(
    names: tuple[str, ...],
    system: int | None,
    json_file: Path | None,
    markdown: bool,
    plot_file: Path | None,
    seed: int,
) -> int:
    """Judge published claims about KV caches: confirmed, refuted, not testable here, or not measured.

    Every verdict follows from figures that are computed on the spot. Exit codes: 0 every claim was judged, whatever the
    verdicts; 2 bad usage.
    """
    from kvconform.claims.page import markdown as page

    chosen = _chosen(names, system)
    for option, path in (("--json", json_file), ("--plot", plot_file)):
        if path is not None and not path.absolute().parent.is_dir():
            raise AdapterError(f"{option} {path}: there is no folder {path.parent}")
    picture = "" if plot_file is None else _picture(plot_file, chosen)
    start = time.perf_counter()
    judged = _judge(chosen, seed)
    if markdown:
        click.echo(page(judged, seed), nl=False)
    else:
        _show(chosen, judged, seed, everything=bool(names))
        err.print(f"{time.perf_counter() - start:.1f} s", style="dim", highlight=False)
    if json_file is not None:
        report = [claim.to_json(judged[claim.name], seed) for claim in chosen]
        document = {"schema": SCHEMA, "suite": kvconform.__version__, "seed": seed, "claims": report}
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        err.print(f"report: {json_file}", style="dim", highlight=False)
    if plot_file is not None:
        from kvconform.claims.plot import draw
        from kvconform.claims.training import NoTrainer

        try:
            draw(picture, plot_file, seed)
        except NoTrainer as e:
            raise AdapterError(f"--plot {plot_file}: {e}") from e
        err.print(f"picture: {plot_file}", style="dim", highlight=False)
    return 0


def _chosen(names: tuple[str, ...], system: int | None) -> list[Claim]:
    from kvconform.claims.table import CLAIMS, SYSTEMS

    for name in names:
        if name not in CLAIMS:
            raise AdapterError(f"no claim {name!r}{nearest(name, CLAIMS)}")
    if system is not None and system not in SYSTEMS:
        raise AdapterError(f"no claims of system {system}; known: {', '.join(map(str, SYSTEMS))}")
    chosen = [CLAIMS[name] for name in dict.fromkeys(names) or CLAIMS]
    chosen = [claim for claim in chosen if system in (None, claim.system)]
    if not chosen:
        raise AdapterError(f"none of {', '.join(names)} is a claim of system {system}")
    return chosen


def _picture(path: Path, chosen: list[Claim]) -> str:
    """Which picture is asked for; refused in a sentence where it cannot be drawn."""
    from kvconform.claims.plot import FORMATS
    from kvconform.claims.table import CLAIMS

    if path.suffix not in FORMATS:
        raise AdapterError(f"--plot {path}: a picture's name ends in {' or '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise AdapterError("--plot needs matplotlib: pip install 'kvconform[plots]'")
    pictures = [claim.picture for claim in chosen if claim.picture]
    if len(pictures) != 1:
        those = ", ".join(claim.name for claim in CLAIMS.values() if claim.picture)
        raise AdapterError(f"--plot draws one picture, and {len(pictures)} are asked for: name one of {those}")
    return pictures[0]


def _judge(chosen: list[Claim], seed: int) -> dict[str, Judged]:
    """Judge one after another, showing progress on stderr: a bar on a terminal, a line a claim elsewhere."""
    judged = {}
    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TextColumn("claims"))
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for claim in chosen:
            progress.update(task, description=claim.name)
            if not err.is_terminal:
                err.print(f"{claim.name} ...", highlight=False)
            judged[claim.name] = claim.judge(seed)
            progress.advance(task)
    return judged


def _show(chosen: list[Claim], judged: Mapping[str, Judged], seed: int, *, everything: bool) -> None:
    """The table, then in full what was not confirmed, or what was asked for by name."""
    from kvconform.claims.claim import CONFIRMED, VERDICTS

    out.print(_table(chosen, judged))
    for claim in chosen:
        if everything or judged[claim.name].verdict != CONFIRMED:
            out.print(_details(claim, judged[claim.name], seed), highlight=False)
    counts = Counter(one.verdict for one in judged.values())
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    out.print(f"\n{len(judged)} judged: {told}", highlight=False)


def _table(chosen: list[Claim], judged: Mapping[str, Judged]) -> Table:
    """One row a claim: the verdict and the figure that decides."""
    grid = Table(header_style="bold")
    grid.add_column("system", justify="right")
    grid.add_column("claim", min_width=max(len(claim.name) for claim in chosen))
    grid.add_column("verdict", min_width=len("confirmed"))
    grid.add_column("figure that decides")
    for claim in chosen:
        found = judged[claim.name]
        name, figure = next(iter(found.figures.items()))
        verdict = Text(found.verdict, style=_STYLE.get(found.verdict, "yellow"))
        grid.add_row(str(claim.system), claim.name, verdict, Text(f"{name}: {figure}"))
    return grid


def _details(claim: Claim, found: Judged, seed: int) -> Text:
    """One paste: the claim as stated, the verdict and why, every figure, the line that reproduces it."""
    text = Text(f"\n{found.verdict} ", style=_STYLE.get(found.verdict, "yellow"))
    text.append(f"{claim.name}\n", style="bold")
    width = max(map(len, found.figures))
    for name, line in (("claim", claim.statement), ("because", found.explanation)):
        text.append(f"  {name:<8}{line}\n", style="not bold default")
    for name, figure in found.figures.items():
        text.append(f"    {name:<{width}}  {figure}\n", style="not bold default")
    return text.append(f"  again   {claim.command(seed)}", style="not bold default")
