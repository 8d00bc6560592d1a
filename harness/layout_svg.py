"""The picture of a layout as SVG: one small file, the same bytes each time, legible on a light and on a dark page."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from itertools import zip_longest
from pathlib import Path

from kvconform.harness.layout_picture import (
    LEFT_OUT,
    PADDING,
    Drawn,
    Picture,
    Row,
    Run,
    Strip,
    colours,
    field_lines,
    shade_of,
    small_dtype,
    small_sizes,
)
from kvconform.harness.layout_rows import picture
from kvconform.specs.layouts import LAYOUTS

WIDTH, MARGIN = 780, 12
"""Width up to which buffers stand side by side; the space around all."""

_CHAR, _HEAD, _CELL, _ROW = 5.42, 11, 17, 34
"""Width of a character at 9 px in a monospaced font; heights of a run's heading and of its cells, and of a row."""

_STYLE = (
    "text{font:9px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#111}"
    ".t text{font-size:13px;font-weight:bold}.b text{font-weight:bold}.m text{fill:#555}.c text{text-anchor:middle}"
    "path{stroke:#444;stroke-width:.6}.w{stroke:#111;stroke-width:1.8;fill:none}.p{fill:url(#pad)}"
)

_HATCH = (
    '<pattern id="pad" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0 0h6v6h-6z" style="fill:#eee;stroke:none"/><path d="M0 0v6" style="stroke:#ccc;stroke-width:2"/>'
    "</pattern>"
)


def svg(shown: Picture) -> str:
    """The whole file."""
    page = _Page(shown)
    page.draw()
    classes = "".join(
        f".p{index}{shade}{{fill:{colour}}}"
        for index, part in enumerate(shown.row.parts)
        for shade, colour in enumerate(colours(shown.row)[part.name])
        if (part.name, shade) in page.used
    )
    width, height = round(page.width + MARGIN), round(page.y + MARGIN)
    title = escape(f"{shown.row.name}: {shown.sizes_text}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' role="img"><title>{title}</title>',
            f"<style>{_STYLE}{classes}</style><defs>{_HATCH}</defs>",
            f'<rect width="{width}" height="{height}" rx="6" fill="#fff"/>',
            *page.elements(),
            "</svg>\n",
        ]
    )


def write_pictures(folder: Path) -> list[Path]:
    """Write NAME.svg of every row, in its small sizes; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, row in LAYOUTS.items():
        dtype = small_dtype(row)
        path = folder / f"{name}.svg"
        path.write_text(svg(picture(row, small_sizes(row, dtype), dtype)), encoding="utf-8")
        written.append(path)
    return written


class _Page:
    """Where everything stands. Boxes of one colour are one path, which keeps the file small."""

    def __init__(self, shown: Picture) -> None:
        self.shown, self.y, self.width = shown, MARGIN, 0.0
        self.used: set[tuple[str, int]] = set()
        self._index = {part.name: index for index, part in enumerate(shown.row.parts)}
        self._boxes: dict[str, list[str]] = defaultdict(list)
        self._texts: dict[str, list[str]] = defaultdict(list)

    def elements(self) -> Iterator[str]:
        """The paths, then the texts on them."""
        for name, boxes in sorted(self._boxes.items()):
            yield f'<path class="{name}" d="{"".join(boxes)}"/>'
        for name, texts in sorted(self._texts.items()):
            yield f'<g class="{name}">{"".join(texts)}</g>'

    def draw(self) -> None:
        """Title, buffers in columns, legend, notes."""
        columns = self._columns()
        self.width = max(560.0, *(sum(width for _, width in line) + 24 * (len(line) - 1) + MARGIN for line in columns))
        self._text("t", MARGIN, 8, self.shown.row.name)
        self.y += 14
        for line in [*field_lines(self.shown.row), self.shown.sizes_text]:
            self._paragraph("m" if line == self.shown.sizes_text else "", line)
        self.y += 6
        for beside in columns:
            top, x, bottom = self.y, float(MARGIN), self.y
            for drawn, wide in beside:
                self.y = top
                self._buffer(drawn, x)
                x, bottom = x + wide + 24, max(bottom, self.y)
            self.y = bottom + 4
        self._legend()
        for note in self.shown.notes:
            self._paragraph("m", note)

    def _paragraph(self, name: str, line: str) -> None:
        for part in textwrap.wrap(line, int((self.width - MARGIN) / _CHAR), subsequent_indent="    "):
            indent = len(part) - len(part.lstrip())
            self._text(name, MARGIN + indent * _CHAR, 8, part.strip())
            self.y += 13

    # --- buffers

    def _columns(self) -> list[list[tuple[Drawn, float]]]:
        """Buffers side by side while there is room."""
        lines: list[list[tuple[Drawn, float]]] = [[]]
        for drawn in self.shown.buffers:
            title = len(f"{drawn.buffer}  {drawn.title}") * _CHAR
            width = max(title, *(_label_width(drawn) + sum(_widths(strip)) for strip in drawn.strips))
            if lines[-1] and sum(w + 24 for _, w in lines[-1]) + width > WIDTH:
                lines.append([])
            lines[-1].append((drawn, width))
        return lines

    def _buffer(self, drawn: Drawn, x: float) -> None:
        self._text("b", x, 9, drawn.buffer)
        self._text("m", x + (len(drawn.buffer) + 2) * _CHAR, 9, drawn.title)
        self.y += 15
        left = x + _label_width(drawn)
        for strip in drawn.strips:
            widths = _widths(strip)
            for row in strip.rows:
                if row is None:
                    self._text("m", left, 5, "...")
                    self.y += 10
                else:
                    self._row(row, x, left, widths, drawn.word)
        self.y += 4

    def _row(self, row: Row, x: float, left: float, widths: list[float], word: int) -> None:
        if not any(run.name for run in row.runs):
            self.y -= _HEAD - 2
        self._text("m", x, _HEAD + 12, row.label)
        for run, width in zip(row.runs, widths, strict=False):
            self._run(run, left, width, word)
            left += width
        self.y += _ROW

    def _run(self, run: Run, left: float, width: float, word: int) -> None:
        if run.name:
            self._text("", left + 1, _HEAD - 3, run.name)
        if run.part == LEFT_OUT:
            self._label(left, width - 3, run.text)
            return
        if run.text:
            self._box(run.part, run.cells[0].shade if run.cells else 0, left, width - 3)
            self._label(left, width - 3, run.text)
            return
        each = (width - 3) / len(run.cells)
        for number, cell in enumerate(run.cells):
            self._box(run.part, cell.shade, left + number * each, each)
            self._label(left + number * each, each, cell.label)
        for number in range(len(run.cells) + 1):
            if word and run.bits < word and (run.start + number * run.bits) % word == 0:
                self._boxes["w"].append(f"M{left + number * each:g} {self.y + _HEAD - 1}v{_CELL + 2}")

    def _box(self, part: str, shade: int, left: float, width: float) -> None:
        name = "p"
        if part != PADDING:
            number = shade_of(shade)
            self.used.add((part, number))
            name = f"p{self._index[part]}{number}"
        self._boxes[name].append(f"M{_short(left)} {self.y + _HEAD}h{_short(width)}v{_CELL}h-{_short(width)}z")

    def _label(self, left: float, width: float, text: str) -> None:
        self._texts["c"].append(f'<text x="{left + width / 2:.0f}" y="{self.y + _HEAD + 12}">{escape(text)}</text>')

    # --- legend

    def _legend(self) -> None:
        """Colours, then letters."""
        x, start = float(MARGIN), self.y
        entries: list[tuple[list[tuple[str, int]], str]] = []
        for name in self._index:
            shades = sorted(shade for part, shade in self.used if part == name)
            if shades:
                entries.append(([(name, shade) for shade in shades], name))
        if self._boxes["p"]:
            entries.append(([(PADDING, 0)], PADDING))
        for swatches, text in entries:
            width = 14 * len(swatches) + (len(text) + 3) * _CHAR
            if x + width > self.width:
                x, self.y = float(MARGIN), self.y + 16
            for number, (part, shade) in enumerate(swatches):
                name = "p" if part == PADDING else f"p{self._index[part]}{shade}"
                self._boxes[name].append(f"M{_short(x + 14 * number)} {self.y}h12v10h-12z")
            self._text("", x + 14 * len(swatches) + 3, 8, text)
            x += width
        self.y = max(self.y, start) + 17
        self._paragraph("m", self.shown.legend_text)
        if self.shown.words:
            self._paragraph("m", f"Between bold lines is {self.shown.words}, its lower bits on the left.")

    def _text(self, name: str, x: float, down: float, text: str) -> None:
        self._texts[name or "h"].append(f'<text x="{_short(x)}" y="{self.y + down:g}">{escape(text)}</text>')


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _label_width(drawn: Drawn) -> float:
    return 10 + _CHAR * max(len(row.label) for row in drawn.rows)


def _widths(strip: Strip) -> list[float]:
    """Widths of the runs of its rows, in columns."""
    rows = [[_width(run) for run in row.runs] for row in strip.rows if row is not None]
    return [max(column) for column in zip_longest(*rows, fillvalue=0.0)]


def _width(run: Run) -> float:
    """Room for its heading, and for what its cells or its block say; a gap behind it."""
    heading = len(run.name) * _CHAR + 3
    if run.text:
        return max(heading, len(run.text) * _CHAR + 8) + 3
    return max(heading, len(run.cells) * (max(len(cell.label) for cell in run.cells) * _CHAR + 5)) + 3
