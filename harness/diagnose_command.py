"""`kvconform diagnose`: where an implementation really finds and puts things, told from decodable probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import click
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from kvconform.harness import diagnosis_page
from kvconform.harness.adapters import AdapterError, find, nearest
from kvconform.harness.booking import BAD_EXIT, NOTHING_EXIT, OK_EXIT
from kvconform.harness.subject import Subject
from kvconform.oracles.diagnosis import OPS, Diagnosis, diagnose
from kvconform.oracles.diagnosis.pairs import NOT_NAMED
from kvconform.oracles.diagnosis.pairs import pairs as every_pair
from kvconform.oracles.diagnosis.probe_cases import is_observable
from kvconform.oracles.verdict import Violation
from kvconform.specs.cells import Cell, OfferError, cells
from kvconform.specs.dtypes import DTYPES, PACKED
from kvconform.specs.layouts import LAYOUTS, SIDES

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

T = TypeVar("T")

Told = tuple[Cell, Diagnosis | str]
"""A cell, and what was found of it or why nothing could be."""


@click.command("diagnose")
@click.option("--impl", metavar="NAME", help="Built-in name, path to an adapter, or dotted module.")
@click.option("--op", "ops", multiple=True, metavar="|".join(OPS), help="Only this operation; may be repeated.")
@click.option("--layout", "layouts", multiple=True, metavar="LAYOUT", help="Only this layout; may be repeated.")
@click.option("--dtype", metavar="DTYPE", help="Caches of this type.  [default: of each layout the first offered]")
@click.option("--pairs", is_flag=True, help="Count instead how many wrong layouts are named, over all pairs of them.")
@click.option("--markdown", is_flag=True, help="Print docs/results/diagnosis.md; with --pairs.")
def diagnose_command(
    impl: str | None, ops: tuple[str, ...], layouts: tuple[str, ...], dtype: str | None, pairs: bool, markdown: bool
) -> int:
    """Say which layout an implementation really uses, from contents that are addresses.

    \b
    kvconform diagnose --impl my_adapter.py
    kvconform diagnose --impl my_adapter.py --op gather --layout split_x --dtype bfloat16
    kvconform diagnose --pairs

    For each operation and layout that it offers: the row of the layouts that K and V lie in, or the strides they have
    where no row fits, and whether their pages are those of the tables. The adapter runs in this very process.

    Exit codes: 0 everything that can be told is as claimed; 1 something is not, or a call fails; 2 bad usage or a bad
    adapter; 3 nothing can be told of some cell, or the implementation is blocked. With --pairs: 0 every wrong layout is
    named, 1 one is not.
    """
    _check_words(ops, layouts, dtype)
    if pairs:
        if impl or layouts or dtype:
            raise click.UsageError("--pairs goes with --op and --markdown alone: it plants implementations of its own")
        return _judge_pairs(ops, markdown)
    if markdown or impl is None:
        raise click.UsageError("--markdown goes with --pairs" if markdown else "name an adapter: --impl NAME")
    found = find(impl)
    if found.blocked:
        err.print(f"{found.name} is blocked: {found.blocked}", style="red", markup=False, highlight=False)
        return NOTHING_EXIT
    subject = Subject(found.load(), found.name, found.file, found.ref)
    told = list(_told(subject, _asked(subject, ops, layouts, dtype)))
    out.print(_table(told))
    for line in _lines(told):
        out.print(line, markup=False, highlight=False)
    return _exit_code(told)


def _judge_pairs(ops: tuple[str, ...], markdown: bool) -> int:
    asked = [pair for op in ops or OPS for pair in every_pair(op)]
    judged = [(pair, pair.outcome()) for pair in _followed(asked, lambda pair: f"{pair.op} {pair.claimed}")]
    text = diagnosis_page.markdown(judged)
    click.echo(text, nl=False) if markdown else out.print(Markdown(text))
    return BAD_EXIT if any(outcome == NOT_NAMED for _, outcome in judged) else OK_EXIT


def _check_words(ops: tuple[str, ...], layouts: tuple[str, ...], dtype: str | None) -> None:
    dtypes = (*DTYPES, *PACKED)
    for name, values, known in (
        ("operation to diagnose", ops, OPS),
        ("layout", layouts, tuple(LAYOUTS)),
        ("dtype", (dtype,) if dtype else (), dtypes),
    ):
        for value in values:
            if value not in known:
                raise AdapterError(f"no {name} {value!r}{nearest(value, known)}")


def _asked(subject: Subject, ops: tuple[str, ...], layouts: tuple[str, ...], dtype: str | None) -> list[Cell]:
    """One cell of each operation and layout. Raises AdapterError where what was asked for is not offered."""
    found: dict[tuple[str, str], Cell] = {}
    for op in ops or OPS:
        for cell in cells(op, subject.offers[op], subject.conventions) if op in subject.offers else ():
            if (not layouts or cell.layout in layouts) and dtype in (None, cell.dtype) and is_observable(cell):
                found.setdefault((op, cell.layout), cell)
    for word, known in (("operation", {op for op, _ in found}), ("layout", {layout for _, layout in found})):
        for value in ops if word == "operation" else layouts:
            if value not in known:
                raise AdapterError(f"{subject.name} does not offer {word} {value!r}{_in(dtype)} ({subject.file})")
    if not found:
        raise AdapterError(f"{subject.name} offers none of {', '.join(OPS)}{_in(dtype)} ({subject.file})")
    return list(found.values())


def _in(dtype: str | None) -> str:
    return f" in {dtype}" if dtype else ""


def _told(subject: Subject, asked: list[Cell]) -> Iterator[Told]:
    """Diagnose one cell after another."""
    for cell in _followed(asked, lambda cell: f"{cell.op} {cell.layout} {cell.dtype}"):
        try:
            yield cell, diagnose(subject.call, cell)
        except (Violation, OfferError) as e:
            yield cell, str(e)


def _followed(asked: Sequence[T], name: Callable[[T], str]) -> Iterator[T]:
    """One after another, with a bar on a terminal; elsewhere a line whenever the name is another one."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn())
    said = ""
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=len(asked))
        for one in asked:
            progress.update(task, description=name(one))
            if not err.is_terminal and name(one) != said:
                said = name(one)
                err.print(f"{said} ...", highlight=False)
            yield one
            progress.advance(task)


def _table(told: list[Told]) -> Table:
    table = Table()
    for column in ("operation", "claimed", "dtype"):
        table.add_column(column, no_wrap=True)
    for column in ("K uses", "V uses", "tables"):
        table.add_column(column, overflow="fold")  # a name that is cut off may be that of another row
    for cell, found in told:
        if isinstance(found, str):
            row = [Text("a call fails", style="red"), Text(), Text()]
        else:
            style = "green" if found.is_right else "yellow" if not found.placements else "red"
            uses = (found.side(side) for side in SIDES)
            row = [Text("as claimed" if text == cell.layout else text, style=style) for text in uses]
            row.append(Text(found.tables, style=style))
        table.add_row(cell.op, cell.layout, cell.dtype, *row)
    return table


def _lines(told: list[Told]) -> Iterator[str]:
    """What is not as claimed or cannot be told, cells of which the same is said together; why rows stand together."""
    said: dict[str, list[str]] = {}
    alike: dict[str, None] = {}
    for cell, found in told:
        text = found if isinstance(found, str) else "; ".join(filter(None, [found.sentence, found.unknown]))
        if text:
            said.setdefault(text, []).append(f"{cell.op} on {cell.layout} in {cell.dtype}")
        if isinstance(found, Diagnosis) and found.sentence:
            alike |= dict.fromkeys(f"{a} and {b}: {why}" for (a, b), why in found.not_told_apart.items())
    for text, where in said.items():
        yield f"{', '.join(where)}: {text}"
    yield from alike


def _exit_code(told: list[Told]) -> int:
    found = [one for _, one in told]
    if any(isinstance(one, str) or one.sentence for one in found):
        return BAD_EXIT
    return OK_EXIT if all(isinstance(one, Diagnosis) and one.placements for one in found) else NOTHING_EXIT
