"""merge_kv and extract_* by the row's address."""

from __future__ import annotations

import numpy as np

from kvconform.oracles import memory
from kvconform.oracles.verdict import Exact, by_axes
from kvconform.specs.data import Array, grid
from kvconform.specs.fused import FusedInputs
from kvconform.specs.layouts import SIDE_NAMES, Layout


def merged(inputs: FusedInputs, row: Layout | None = None) -> Array:
    """The fused tensor that holds K and V; `row` differs from the Case's own in a named mistake only."""
    row, case = row or inputs.case.row, inputs.case
    shape = inputs.case.row.shape("kv", inputs.sizes, case.dtype)
    fused = np.zeros(shape, inputs.sides[0].dtype)
    for part, rows in zip(row.parts, inputs.sides, strict=True):
        memory.store(row, {"kv": fused}, part, grid(*rows.shape), rows, inputs.sizes, case.dtype)
    return fused


def extracted(inputs: FusedInputs, fused: Array, side: int, row: Layout | None = None) -> Array:
    """K or V of a fused tensor."""
    row, everywhere = row or inputs.case.row, grid(*inputs.sizes.values())
    return memory.load(row, {"kv": fused}, row.parts[side], everywhere, inputs.sizes, inputs.case.dtype)


def expect_merge(inputs: FusedInputs, row: Layout | None = None) -> dict[str, Exact]:
    """The fused tensor, bit for bit."""
    case = inputs.case
    return {"kv": Exact(merged(inputs, row), lambda index: case.row.where("kv", index, inputs.sizes, case.dtype))}


def expect_extract(
    inputs: FusedInputs, fused: Array, side: int, row: Layout | None = None, source: int | None = None
) -> dict[str, Exact]:
    """K or V, bit for bit; read as `row` and from the `source` side in a named mistake only."""
    read = extracted(inputs, fused, side if source is None else source, row)
    return {SIDE_NAMES[side]: Exact(read, by_axes(*inputs.case.row.axes))}
