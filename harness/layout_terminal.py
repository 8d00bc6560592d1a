"""The picture of a layout in a terminal: colours where there are some, the same in letters where there are none."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.text import Text

from kvconform.harness.layout_picture import PADDING, Drawn, Picture, Row, Run, colours, shade_of

_FRAME = 2
"""Columns between a row's label and its runs."""


def lines(shown: Picture, width: int) -> Iterator[Text]:
    """Line by line, none wider than `width` unless one cell is."""
    for drawn in shown.buffers:
        yield Text.assemble((drawn.buffer, "bold"), "  ", (drawn.title, "dim"))
        yield from _buffer(shown, drawn, width)
        yield Text()
    joined = [f"A comma joins what lies in {shown.words}, the lower bits first."] if shown.words else []
    for note in (shown.legend_text, *joined, *shown.notes):
        yield from (Text(line, style="dim") for line in textwrap.wrap(note, width))


def _buffer(shown: Picture, drawn: Drawn, width: int) -> Iterator[Text]:
    indent = max(len(row.label) for row in drawn.rows) + _FRAME
    for strip in drawn.strips:
        for row in strip.rows:
            if row is None:
                yield Text(" " * indent + "...", style="dim")
            else:
                yield from _row(shown, row, indent, width, drawn.word)


def _row(shown: Picture, row: Row, indent: int, width: int, word: int) -> Iterator[Text]:
    """A run goes to a line of its own rather than being broken; one that no line can hold is broken between cells."""
    line = Text(row.label.ljust(indent), style="dim")
    for run in row.runs:
        pieces = list(_pieces(shown, run, word))
        if line.cell_len > indent and line.cell_len + sum(piece.cell_len for piece in pieces) - 1 > width:
            yield _ended(line)
            line = Text(" " * indent)
        for piece in pieces:
            if line.cell_len > indent and line.cell_len + len(piece.plain.rstrip()) > width:
                yield _ended(line)
                line = Text(" " * (indent + _FRAME))
            line.append_text(piece)
    yield _ended(line)


def _ended(line: Text) -> Text:
    line.rstrip()
    return line


def _pieces(shown: Picture, run: Run, word: int) -> Iterator[Text]:
    """What a line may be broken behind: `k h0 t2 [d0`, ` d1`, ` d2] `. A comma joins the values of one word."""
    if run.text:
        style = f"#111111 on {_colour(shown, run.part, run.cells[0].shade)}" if run.cells else ""
        style = "#111111 on #d4d4d4" if run.part == PADDING else style
        name = Text(f"{run.name} " if run.name else "", style="not dim")
        yield name.append("[", style).append(run.text, style).append("]", style).append(" ", "not dim")
        return
    last = len(run.cells) - 1
    piece = Text(f"{run.name} ", style="not dim")
    for number, cell in enumerate(run.cells):
        style = f"#111111 on {_colour(shown, run.part, cell.shade)}"
        inside = number < last and word and (run.start + (number + 1) * run.bits) % word
        piece.append("[" * (number == 0) + cell.label + ("]" if number == last else "," if inside else " "), style)
        if not inside:
            yield piece.append(" " * (number == last), "not dim")
            piece = Text(style="not dim")


def _colour(shown: Picture, part: str, shade: int) -> str:
    return colours(shown.row)[part][shade_of(shade)]
