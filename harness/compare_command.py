"""`kvconform compare`: whether two layouts are the same bytes, and when."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvconform.harness.adapters import AdapterError, nearest
from kvconform.harness.layout_commands import size_options
from kvconform.harness.layout_page import equivalence_section, told_when
from kvconform.specs.compare import IncomparableError, compare
from kvconform.specs.equivalence import Equivalence, equivalence, equivalences
from kvconform.specs.formula import size_name, sizes_text
from kvconform.specs.layouts import LAYOUTS, Layout


@click.command("compare")
@click.argument("names", nargs=-1, metavar="[A B]")
@click.option("--dtype", help="What both caches are in.  [default: one in which they differ, if they do]")
@click.option("--markdown", is_flag=True, help="Without names: print the table as docs/layouts.md has it.")
@size_options
def compare_layouts(names: tuple[str, ...], dtype: str | None, markdown: bool, **sizes: int | None) -> int:
    """Say whether layouts A and B are the same bytes: of the same shape, under another one, or different.

    \b
    kvconform compare interleaved beside_nhd              the same bytes under another shape
    kvconform compare nhd hnd --page-size 1               in sizes of your own
    kvconform compare                                     every pair that is ever the same bytes

    Without sizes both are compared in many geometries; shown is the first in which they differ, with the first
    coordinate that does. Exit codes: 0 the same bytes, 1 different, 2 bad usage.
    """
    out = Console(soft_wrap=True, highlight=False)
    if not names:
        if markdown:
            click.echo(equivalence_section(equivalences()), nl=False)
        else:
            Console().print(_table(equivalences()))
        return 0
    if len(names) != 2:
        raise click.UsageError(f"compare takes two layouts or none, not {len(names)}: {' '.join(names)}")
    row, other = (_row(name) for name in names)
    named = {text: size for text, size in sizes.items() if size is not None}
    try:
        if named or dtype:
            found = compare(row, other, _sizes(row, other, named), dtype or _common_dtype(row, other))
            out.print(str(found), markup=False)
            return int(not found.same_bytes)
        return _everywhere(out, row, other)
    except IncomparableError as e:
        raise AdapterError(str(e)) from e


def _everywhere(out: Console, row: Layout, other: Layout) -> int:
    always = equivalence(row, other)
    if always is None:  # they hold different things: comparing them anywhere says what
        sizes = {
            **dict.fromkeys(("page", "slot", "head", "dim", "dim_v", "subspace", "token", "part", "seq", "rope"), 1)
        }
        compare(row, other, {**sizes, **row.fixed, **other.fixed}, _common_dtype(row, other))
        raise IncomparableError(f"{row.name} and {other.name} can be built together in no geometry tried")
    out.print(str(always), markup=False)
    shown = compare(row, other, always.sizes, always.dtype)
    out.print(f"in {always.dtype}, {sizes_text(row, always.sizes)}:", style="dim", markup=False)
    out.print(f"  {shown}", markup=False)
    return int(always.agree < always.tried)


def _row(name: str) -> Layout:
    if name not in LAYOUTS:
        raise AdapterError(f"no layout {name!r}{nearest(name, LAYOUTS)}")
    return LAYOUTS[name]


def _common_dtype(row: Layout, other: Layout) -> str:
    common = [dtype for dtype in row.dtypes if dtype in other.dtypes]
    if not common:
        stored = [f"{one.name} is stored in {', '.join(one.dtypes)}" for one in (row, other)]
        raise IncomparableError(f"{' and '.join(stored)}: no type of both")
    return common[0]


def _sizes(row: Layout, other: Layout, named: dict[str, int]) -> dict[str, int]:
    """Axis -> size, those that are not named from the geometry in which the two differ."""
    always = equivalence(row, other)
    sizes: dict[str, int] = {**(always.sizes if always else {}), **row.fixed, **other.fixed}
    axes = {size_name(one, axis): axis for one in (row, other) for part in one.parts for axis in part.axes}
    for text, size in named.items():
        if text not in axes:
            raise AdapterError(f"{row.name} and {other.name} have no {text}; their sizes are {', '.join(axes)}")
        sizes[axes[text]] = size
    return {**dict.fromkeys(axes.values(), 1), **sizes}


def _table(found: Iterable[Equivalence]) -> Table:
    grid = Table(title="layouts that are the same bytes", title_justify="left")
    for column in ("layouts", "relation", "when"):
        grid.add_column(column)
    for one in found:
        if one.agree:
            grid.add_row(Text(" = ".join(one.names)), one.relation, told_when(one))
    return grid
