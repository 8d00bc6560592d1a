"""A small page of a layout as it lies in memory: what `kvconform show` prints and what the SVG files draw.

Everything follows from the row: `Layout.places` says what lies at each bit, what no part claims is padding, and the
rows of the picture are the innermost dimensions of its arrays and records (`layout_rows.py`). Neighbours that belong
to one part and differ in one axis make a run; a run is drawn cell by cell where it is short, else as one block with
its count. `layout_terminal.py` and `layout_svg.py` draw what is described here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvconform.specs.dtypes import width
from kvconform.specs.formula import size_names
from kvconform.specs.row import Bytes, Layout

LETTERS: dict[str, tuple[str, str]] = {
    "page": ("p", "page"),
    "part": ("p", "part of the split"),
    "seq": ("s", "sequence"),
    "head": ("h", "head"),
    "slot": ("t", "token (its slot)"),
    "token": ("t", "token"),
    "dim": ("d", "dim"),
    "dim_v": ("d", "dim"),
    "rope": ("r", "dim of the rope"),
    "subspace": ("m", "subspace"),
}
"""Axis -> (its letter in a picture, what it means), in the order in which a label has them."""

SHADED_BY = ("head", "slot", "token")
"""The first of these axes that a part has gives its shade."""


PADDING, LEFT_OUT = "padding", "..."
"""What a run is that holds no part: places of none, or runs that are not shown."""


class PictureError(ValueError):
    """Sizes that a row cannot be drawn in; one sentence."""


@dataclass(frozen=True)
class Cell:
    """One place.

    label   what tells it from the others of its run
    shade   which of its part's shades it has: its head
    """

    label: str
    shade: int


@dataclass(frozen=True)
class Run:
    """Neighbouring places of one part that differ in one axis.

    part    its name, or PADDING or LEFT_OUT
    head    what its places have in common: `h0 t2`; with the varying axis where it is drawn as one block
    text    what a block says instead of cells: `512 x float8_e4m3fn`; empty where cells are drawn
    start   its first bit in the buffer
    bits    of one place; of all of it for padding
    cells   its places
    """

    part: str
    head: str
    text: str
    start: int
    bits: int
    cells: tuple[Cell, ...] = ()

    @property
    def name(self) -> str:
        """What stands over it."""
        return "" if self.part in (PADDING, LEFT_OUT) else f"{self.part} {self.head}".strip()

    @property
    def num_letters(self) -> int:
        """How many characters it takes side by side with others."""
        inside = [self.text] if self.text else [cell.label for cell in self.cells]
        return max(len(self.name), len(inside) * (1 + max(map(len, inside))))


@dataclass(frozen=True)
class Row:
    """What lies side by side. `label` says where it begins: an index into the buffer, or a byte of it."""

    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Strip:
    """Rows of one array or of one kind of record; None stands for rows that are left out."""

    rows: tuple[Row | None, ...]


@dataclass(frozen=True)
class Drawn:
    """One buffer.

    title    type and shape
    strips   what lies in it, in memory order
    word     bits of its words, where some part's places are narrower; 0 where none is
    """

    buffer: str
    title: str
    strips: tuple[Strip, ...]
    word: int

    @property
    def rows(self) -> list[Row]:
        """Every row that is not left out."""
        return [row for strip in self.strips for row in strip.rows if row is not None]


@dataclass(frozen=True)
class Picture:
    """All buffers of a row in some sizes.

    notes   sentences on what is shown
    """

    row: Layout
    sizes: Mapping[str, int]
    dtype: str
    buffers: tuple[Drawn, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> Iterator[Run]:
        """Every run of every row that is not left out."""
        return (run for one in self.buffers for row in one.rows for run in row.runs)

    @property
    def num_cells(self) -> int:
        """How many places are drawn one by one."""
        return sum(len(run.cells) for run in self.runs if not run.text)

    @property
    def words(self) -> str:
        """What words the drawn cells share, whose ends are marked: `a byte`; empty where none is shared."""
        runs = ((one, run) for one in self.buffers for row in one.rows for run in row.runs)
        shared = sorted({one.word for one, run in runs if not run.text and run.bits < one.word})
        return " or ".join("a byte" if bits == 8 else f"a word of {bits} bits" for bits in shared)

    @property
    def sizes_text(self) -> str:
        """The sizes and the type, for people."""
        told = [f"{name} {self.sizes[axis]}" for axis, name in size_names(self.row).items()]
        return ", ".join([*told, self.dtype])

    @property
    def legend(self) -> dict[str, str]:
        """Letter -> what it means, of the axes that its labels have."""
        words = " ".join(text for run in self.runs for text in (run.head, *(cell.label for cell in run.cells))).split()
        used = {word[0] for word in words}
        axes = [axis for axis in LETTERS if any(axis in part.axes for part in self.row.parts)]
        return {LETTERS[axis][0]: LETTERS[axis][1] for axis in axes if LETTERS[axis][0] in used}

    @property
    def legend_text(self) -> str:
        """How to read it, in one line."""
        told = [f"{letter} {meaning}" for letter, meaning in self.legend.items()]
        shaded = next((axis for axis in SHADED_BY if any(axis in part.axes for part in self.row.parts)), "")
        told += [f"shade: {LETTERS[shaded][1].partition(' ')[0]}"] if shaded else []
        return "; ".join(["Memory runs to the right, then down", *told]) + "."


def field_lines(row: Layout) -> list[str]:
    """The lines of a row: `k, v: page slot ... -> ...`, fields of one line together."""
    fields: dict[str, list[str]] = {}
    for name, one in row.fields.items():
        fields.setdefault(one.line, []).append(name)
    return [f"{', '.join(names)}: {line}" for line, names in fields.items()]


# --- colours

_OWN = (("#cbe2f7", "#8dbdea", "#5596d6", "#eaf3fc"), ("#fde0bb", "#f6b768", "#e38a2c", "#fff2e2"))
_BESIDE = (
    ("#f8f1ab", "#e8da58", "#cbbb2a", "#fcf9dd"),
    ("#bfe8da", "#7fcfb4", "#48b08f", "#e4f6f0"),
    ("#f4d3e3", "#e2a0c0", "#cd6f9e", "#fbedf4"),
    ("#ddd6ee", "#b6aad8", "#9382c4", "#f1eef8"),
)
"""Shades of K and of V, and of what lies beside them. All carry black text at a contrast of 4.5 or more."""


def colours(row: Layout) -> dict[str, tuple[str, ...]]:
    """Part -> its shades. K is blue and V orange: of each side the first part of the cache's own type."""
    own = {
        next(part.name for part in row.of_side(side) if not row.fields[part.field].dtype): side for side in row.sides
    }
    beside = itertools.cycle(_BESIDE)
    return {part.name: _OWN[own[part.name]] if part.name in own else next(beside) for part in row.parts}


def shade_of(value: int) -> int:
    """Which shade a head has."""
    return value % len(_OWN[0])


# --- sizes

_SMALL = {
    "page": (2,),
    "slot": (3, 4, 8, 16, 32, 64, 128),
    "head": (2, 3, 4, 8),
    "dim": (4, 8, 16, 32, 64, 128, 256, 512),
    "dim_v": (2, 4),
    "rope": (4,),
    "subspace": (4,),
    "token": (3,),
    "part": (2,),
    "seq": (3,),
}


def small_dtype(row: Layout) -> str:
    """A type to draw a row in: the first of two bytes, where it takes such."""
    return next((dtype for dtype in row.dtypes if width(dtype) == 16), row.dtypes[0])


def small_sizes(row: Layout, dtype: str, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """The smallest sizes that show what a row does: no axis or part of one is 1, and what can be padded is.

    given   sizes that are settled
    Raises PictureError with the row's own reason where it cannot be built in them.
    """
    given = dict(given or {})
    axes = [axis for axis in dict.fromkeys(a for part in row.parts for a in part.axes) if axis not in row.fixed]
    choices = [(given[axis],) if axis in given else _SMALL[axis] for axis in axes]
    tried = [dict(row.fixed) | given | dict(zip(axes, one, strict=True)) for one in itertools.product(*choices)]
    best: tuple[int, dict[str, int]] | None = None
    for sizes in sorted(tried, key=lambda sizes: math.prod(sizes.values())):
        if best is not None and best[0] == 0:
            break
        if not row.flaw(sizes, dtype):
            hidden = _hidden(row, sizes, dtype)
            best = (hidden, sizes) if best is None or hidden < best[0] else best
    if best is None:
        raise PictureError(row.flaw(tried[0], dtype))
    return best[1]


def _hidden(row: Layout, sizes: Mapping[str, int], dtype: str) -> int:
    """How many axes one cannot see that could be seen: of size 1, or padded by nothing."""
    count = 0
    for name, one in row.fields.items():
        measured = row.measured(name, sizes, dtype)
        for table in measured.sizes:
            count += sum(size == 1 != row.fixed.get(axis) for axis, size in table.items())
        for cut in measured.line.steps[0].left:
            multiple = row.pad.get(cut.axis, 1)
            unit = multiple.elements(one.dtype or dtype) if isinstance(multiple, Bytes) else multiple
            total = math.prod(measured.sizes[0][part] for part in cut.parts)
            count += unit > 1 and total == sizes.get(cut.axis, 2)
    return count
