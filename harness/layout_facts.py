"""What there is to say of a layout beside its picture: all of it read off the row."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping

from kvconform.harness.layout_picture import field_lines
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.formula import UP, formulas, shape_text, size_name
from kvconform.specs.row import Bytes, Layout
from kvconform.specs.tables import TABLES

_OF = {"pages": "page", "tokens": "token", "splits": "part of a split", "elements": "block"}
_OF |= {"codes": "token", "code_pages": "page"}
"""What a row holds -> one of it, for people."""


def facts(row: Layout, dtype: str, sizes: Mapping[str, int] | None = None) -> dict[str, list[str]]:
    """Name -> lines of text. What the row does not have is left out.

    sizes   for the shapes in numbers and how much of them is padding
    """
    told = {
        "holds": [holds(row)],
        "line": field_lines(row),
        "shape": _shapes(row, dtype, sizes),
        "index": _indices(row, dtype),
        "constants": [f"{name} = {_multiple(row.inner[name], dtype)}" for name in _constants(row)],
        "padding": [*_padding(row, dtype), *_padded(row, dtype, sizes)],
        "fixed": [f"{size_name(row, axis)} = {size}" for axis, size in row.fixed.items()],
        "dtypes": [", ".join(row.dtypes), *_own_dtypes(row)],
        "page table": [f"{row.table} ({', '.join(TABLES[row.table].arrays)})"] if row.holds == "pages" else [],
        "sentinels": [row.sentinels] if row.sentinels else [],
        "source": [row.source],
    }
    return {name: lines for name, lines in told.items() if lines}


def holds(row: Layout) -> str:
    """`k and v of a page`."""
    names = [part.name for part in row.parts]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    if row.pairs_pages:
        return f"{' or '.join(names)} of a page: K and V have pages of their own"
    return f"{listed} of a {_OF[row.holds]}" + ("; page i is the whole of sequence i" if row.contiguous else "")


def short_dtypes(row: Layout) -> str:
    """The types it is defined for, in few words."""
    missing = [dtype for dtype in DTYPES if dtype not in row.dtypes]
    if not missing:
        return "all dtypes"
    return f"all but {', '.join(missing)}" if len(missing) < len(row.dtypes) else ", ".join(row.dtypes)


def short_source(row: Layout, width: int = 60) -> str:
    """Where it is from, cut to a width."""
    return textwrap.shorten(row.source.partition(";")[0], width, placeholder=" ...")


def _together(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """`k, v: text` for names of one text."""
    names: dict[str, list[str]] = {}
    for name, text in pairs:
        names.setdefault(text, []).append(name)
    return [f"{', '.join(several)}: {text}" for text, several in names.items()]


def _shapes(row: Layout, dtype: str, sizes: Mapping[str, int] | None) -> list[str]:
    pairs = []
    for buffer in row.buffers:
        text = f"{row.word_of(buffer, dtype).name} [{', '.join(shape_text(row, buffer, dtype))}]"
        if sizes is not None:
            numbers = ", ".join(map(str, row.shape(buffer, sizes, dtype)))
            text += f" = [{numbers}], {row.num_bytes(buffer, sizes, dtype)} bytes"
        pairs.append((buffer, text))
    return _together(pairs)


def _indices(row: Layout, dtype: str) -> list[str]:
    """The formulas, then what stands for itself in them."""
    found = formulas(row, dtype)
    units = _together((name, f"in {one.unit}: {one.text}") for name, one in found.items())
    lines = [line.replace(": in ", ", in ", 1) for line in units]
    for named in ("record", "start"):
        texts = _together((name, one.where[named]) for name, one in found.items() if named in one.where)
        lines += [f"{named} of {line}" for line in texts]
    return [*lines, UP] if any("up(" in line for line in lines) else lines


def _padding(row: Layout, dtype: str) -> list[str]:
    told = []
    for axis, multiple in row.pad.items():
        text = _multiple(multiple, dtype)
        if axis.endswith("|"):
            what, text = f"what lies behind `{axis}`", str(multiple)
        else:
            what = size_name(row, axis) if any(axis in part.axes for part in row.parts) else axis
        told.append(f"{what} is rounded up to a multiple of {text}")
    return told


def _padded(row: Layout, dtype: str, sizes: Mapping[str, int] | None) -> list[str]:
    if sizes is None or not row.pad:
        return []
    counts = [(buffer, row.live(buffer, sizes, dtype)) for buffer in row.buffers]
    return [f"{buffer}: {int((~live).sum()) // 8} of {len(live) // 8} bytes in these sizes" for buffer, live in counts]


def _constants(row: Layout) -> list[str]:
    """The parts of its lines that have a size of their own."""
    words = {word for one in row.fields.values() for word in re.findall(r"\w+", one.line)}
    return [name for name in row.inner if name in words]


def _own_dtypes(row: Layout) -> list[str]:
    return _together((part.name, row.fields[part.field].dtype) for part in row.parts if row.fields[part.field].dtype)


def _multiple(size: int | Bytes, dtype: str) -> str:
    return f"{size}, {size.elements(dtype)} of {dtype}" if isinstance(size, Bytes) else str(size)
