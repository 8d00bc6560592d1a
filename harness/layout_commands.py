"""`kvconform layouts` and `kvconform show`: what layouts there are, and what one of them looks like in memory."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvconform.harness import layout_page, layout_terminal
from kvconform.harness.adapters import AdapterError, nearest
from kvconform.harness.layout_facts import facts, holds, short_dtypes, short_source
from kvconform.harness.layout_picture import Picture, PictureError, field_lines, small_dtype, small_sizes
from kvconform.harness.layout_rows import picture
from kvconform.harness.layout_svg import svg, write_pictures
from kvconform.specs.formula import all_names, size_name, size_names
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.row import Layout

_NAME = 12
"""Columns that the names of the facts take."""


@click.command()
@click.option("--markdown", is_flag=True, help="Print docs/layouts.md instead.")
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the picture of every layout instead, as NAME.svg.",
)
def layouts(markdown: bool, pictures: Path | None) -> None:
    """List every layout: what it holds, its lines, its page table, its dtypes, its source.

    A line reads `logical axes -> dimensions in memory`, slowest first; parentheses make one dimension of several axes.
    `kvconform show NAME` says all of one layout and draws it.
    """
    if pictures is not None:
        written = write_pictures(pictures)
        click.echo(f"{len(written)} pictures in {pictures}")
    elif markdown:
        click.echo(layout_page.whole_page(), nl=False)
    else:
        Console().print(_table())


def _table() -> Table:
    grid = Table(title=f"{len(LAYOUTS)} layouts", title_justify="left", show_lines=True, expand=True)
    grid.add_column("layout", width=max(map(len, LAYOUTS)))
    grid.add_column("what it holds, its lines, its source", ratio=1, overflow="fold")
    grid.add_column("table, dtypes", width=len("float8_e4m3fn,"))
    for row in LAYOUTS.values():
        grid.add_row(
            Text(row.name, style="bold"),
            Text.assemble(holds(row), "\n", ("\n".join(field_lines(row)), "cyan"), "\n", (short_source(row), "dim")),
            Text.assemble(row.table, "\n", (short_dtypes(row), "dim")),
        )
    return grid


def size_options(command: Any) -> Any:
    """An option for every size that some row leaves open."""
    for text in reversed(all_names()):
        rows = [row.name for row in LAYOUTS.values() if text in size_names(row).values()]
        if rows:
            few = ", ".join(rows[:3]) + (" ..." if len(rows) > 3 else "")
            option = click.option(
                f"--{text.replace('_', '-')}", type=click.IntRange(min=1), metavar="N", help=f"A size of {few}"
            )
            command = option(command)
    return command


@click.command()
@click.argument("name", metavar="NAME", required=False)
@click.option("--svg", "svg_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture as SVG.")
@click.option("--dtype", help="What the cache is in.  [default: a type of two bytes, where it takes one]")
@size_options
def show(name: str | None, svg_file: Path | None, dtype: str | None, **sizes: int | None) -> None:
    """Say all of one layout and draw a small page of it as it lies in memory.

    \b
    kvconform show packed                                  K and V rows packed and padded
    kvconform show split_x --head-dim 32 --page-size 4     in other sizes
    kvconform show mla_656 --svg mla_656.svg               as a file for a browser or a page

    Sizes that are not given are the smallest that show what the layout does.
    """
    if name is None:
        raise click.UsageError(f"Missing argument 'NAME'. Layouts: {', '.join(LAYOUTS)}.")
    if name not in LAYOUTS:
        raise AdapterError(f"no layout {name!r}{nearest(name, LAYOUTS)}")
    row = LAYOUTS[name]
    shown = _picture(row, dtype or small_dtype(row), {text: size for text, size in sizes.items() if size is not None})
    if svg_file is not None and not svg_file.absolute().parent.is_dir():
        raise AdapterError(f"--svg {svg_file}: there is no folder {svg_file.parent}")
    out = Console(soft_wrap=True, highlight=False)
    out.print(Text(row.name, style="bold"))
    for fact, lines in {"drawn in": [shown.sizes_text], **facts(row, shown.dtype, shown.sizes)}.items():
        for line in _hanging(fact, lines, out.width):
            out.print(line)
    out.print()
    for line in layout_terminal.lines(shown, out.width):
        out.print(line)
    if svg_file is not None:
        svg_file.write_text(svg(shown), encoding="utf-8")
        out.print(f"picture: {svg_file}", style="dim")


def _picture(row: Layout, dtype: str, named: dict[str, int]) -> Picture:
    """The picture in sizes by their names. Raises AdapterError, in the row's own words."""
    axes = {size_name(row, axis): axis for part in row.parts for axis in part.axes}
    for text in named:
        if text not in axes:
            raise AdapterError(f"{row.name} has no {text}; its sizes are {', '.join(axes)}")
    try:
        return picture(row, small_sizes(row, dtype, {axes[text]: size for text, size in named.items()}), dtype)
    except PictureError as e:
        asked = ", ".join(f"{text} {size}" for text, size in named.items())
        raise AdapterError(f"{e}; asked for {asked}" if asked else str(e)) from e


def _hanging(name: str, lines: list[str], width: int) -> list[Text]:
    """A name and its lines beside it, folded where they are too long."""
    told = []
    for line in lines:
        folded = textwrap.wrap(line, width - _NAME - 2, subsequent_indent="  ", break_on_hyphens=False)
        told += [Text("  ").append(name.ljust(_NAME), style="dim").append(part, "not dim") for part in folded[:1]]
        told += [Text(" " * (_NAME + 2) + part) for part in folded[1:]]
        name = ""
    return told
