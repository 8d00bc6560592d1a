"""Layouts as data: where element (kv, page, slot, head, dim) of a cache lives.

A row says it in one line a field (`specs/pattern.py`). Shape, index formula, strategies, oracles, diagnosis and the
documentation are derived from the row; adding a layout is adding a row. Three independent guards keep a wrong row
from cancelling out between generator and oracle (`tests/test_layouts.py`): every row is a bijection onto its live
bits, golden addresses computed from the upstream source's own pointer arithmetic, and an implementation
(`impls/numpy_ref.py`) that reads by plain reshape and transposition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kvconform.specs import pattern
from kvconform.specs.dtypes import DTYPES

K, V = 0, 1
SIDES = (K, V)
SIDE_NAMES = ("k", "v")

PAGED = ("page", "slot", "head", "dim")
CODES = ("page", "slot", "subspace")
TOKENS = ("token", "head", "dim")
PARTS = ("part", "seq", "head", "dim")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One row: the fields of a cache and the line of each.

    name     what adapters write in OFFERS
    axes     logical axes of one side (K or V), always in this order in `coordinates`
    fields   field -> line; a line that starts with `kv` holds both sides, else the first field is K and the second V
    source   who documents it
    bytes    inner axes whose size is a number of bytes, such as x = 16 bytes
    dtypes   storage types it is defined for
    contiguous   every sequence has one page of its own: page i is the whole of sequence i, page_size its capacity
    """

    name: str
    axes: tuple[str, ...]
    fields: Mapping[str, str]
    source: str
    bytes: Mapping[str, int] = field(default_factory=dict)
    dtypes: tuple[str, ...] = tuple(DTYPES)
    contiguous: bool = False

    @property
    def kind(self) -> tuple[Any, ...]:
        """What a Case must share with a row to be moved to it: the axes, and whether pages are found by a table."""
        return self.axes, self.contiguous

    @cached_property
    def fuses(self) -> bool:
        """Whether one field holds both K and V."""
        return next(iter(self.fields.values())).split()[0] == "kv"

    @property
    def sides(self) -> tuple[int, ...]:
        """K and V, or K alone for a cache of codes."""
        return SIDES if self.fuses else SIDES[: len(self.fields)]

    @property
    def token_axes(self) -> tuple[str, ...]:
        """The axes of one token, as `append` takes it and `gather` returns it."""
        return tuple(axis for axis in self.axes if axis not in ("page", "slot", "token"))

    def field_of(self, side: int) -> str:
        """The field that holds a side."""
        return tuple(self.fields)[0 if self.fuses else side]

    def sizes(self, name: str, sizes: Mapping[str, int], dtype: str) -> dict[str, int]:
        """Size of every axis of a field's line. Raises ValueError where the row cannot be built."""
        inner = {axis: width // DTYPES[dtype].itemsize for axis, width in self.bytes.items()}
        totals = [2] * self.fuses + [sizes[axis] for axis in self.axes]
        return pattern.complete(self.fields[name], totals, inner)

    def admits(self, sizes: Mapping[str, int], dtype: str) -> bool:
        """Whether the row can be built in these sizes (`split_x` wants head_dim in whole chunks)."""
        try:
            for name in self.fields:
                self.sizes(name, sizes, dtype)
        except ValueError:
            return False
        return dtype in self.dtypes

    def shape(self, name: str, sizes: Mapping[str, int], dtype: str) -> tuple[int, ...]:
        """Shape of a field's array."""
        return pattern.shape(self.fields[name], self.sizes(name, sizes, dtype))

    def num_bytes(self, name: str, sizes: Mapping[str, int], dtype: str) -> int:
        """Size of a field's buffer."""
        return math.prod(self.shape(name, sizes, dtype)) * DTYPES[dtype].itemsize

    def address(self, side: int, coordinates: tuple[Any, ...], sizes: Mapping[str, int], dtype: str) -> tuple[str, Any]:
        """(field, bit offset in the field's buffer) of one element of K or V.

        coordinates   one int or broadcastable integer array for each of `axes`
        """
        name = self.field_of(side)
        at = (side, *coordinates) if self.fuses else coordinates
        offset = pattern.address(self.fields[name], at, self.sizes(name, sizes, dtype))
        return name, offset * (8 * DTYPES[dtype].itemsize)

    def where(self, name: str, index: tuple[int, ...], sizes: Mapping[str, int], dtype: str) -> str:
        """The logical coordinates of one element of a field's array, for people: `k: page 7, slot 3, head 1, dim 0`."""
        full = self.sizes(name, sizes, dtype)
        logical, physical = pattern.parse(self.fields[name])
        at: dict[str, int] = {}
        for group, position in zip(physical, index, strict=True):
            rest = position
            for axis in reversed(group):
                rest, at[axis] = divmod(rest, full[axis])
        values = []
        for group in logical:
            value = 0
            for axis in group:
                value = value * full[axis] + at[axis]
            values.append(value)
        side = SIDE_NAMES[values.pop(0)] if self.fuses else SIDE_NAMES[tuple(self.fields).index(name)]
        return f"{side}: " + ", ".join(f"{axis} {value}" for axis, value in zip(self.axes, values, strict=True))


def _both(line: str) -> dict[str, str]:
    return {"k": line, "v": line}


LAYOUTS: dict[str, Layout] = {
    row.name: row
    for row in (
        Layout(
            name="nhd",
            axes=PAGED,
            fields=_both("page slot head dim -> page slot head dim"),
            source="flashinfer docs/tutorials/kv_layout.rst, NHD",
        ),
        Layout(
            name="hnd",
            axes=PAGED,
            fields=_both("page slot head dim -> page head slot dim"),
            source="flashinfer docs/tutorials/kv_layout.rst, HND",
        ),
        Layout(
            name="heads_first",
            axes=PAGED,
            fields=_both("page slot head dim -> head page slot dim"),
            source="jax pallas/ops/gpu/paged_attention.py and pallas/ops/tpu/paged_attention",
        ),
        Layout(
            name="interleaved",
            axes=PAGED,
            fields={"kv": "kv page slot head dim -> page slot (head kv) dim"},
            source="tpu-inference kernels/ragged_paged_attention/v3, merge_kv; unpadded",
        ),
        Layout(
            name="split_x",
            axes=PAGED,
            fields={
                "k": "page slot head (chunk x) -> page head chunk slot x",
                "v": "page slot head dim -> page head dim slot",
            },
            bytes={"x": 16},
            source="vLLM csrc/cache_kernels.cu, reshape_and_cache; x = 16 bytes",
        ),
        Layout(
            name="bshd",
            axes=PAGED,
            fields=_both("page slot head dim -> page slot head dim"),
            source="flash-attention flash_attn_with_kvcache, k_cache (batch, seqlen, nheads_k, headdim)",
            contiguous=True,
        ),
        Layout(
            name="bhsd",
            axes=PAGED,
            fields=_both("page slot head dim -> page head slot dim"),
            source="torch.nn.functional.scaled_dot_product_attention, key (N, Hkv, S, E)",
            contiguous=True,
        ),
        Layout(
            name="code_rows",
            axes=CODES,
            fields={"codes": "page slot subspace -> page slot subspace"},
            dtypes=("uint8",),
            source="MILLION, codes of one (sequence, head) in token order",
        ),
        Layout(
            name="code_columns",
            axes=CODES,
            fields={"codes": "page slot subspace -> page subspace slot"},
            dtypes=("uint8",),
            source="MILLION, paged: a page is the transpose of its (page_size, M) codes",
        ),
        Layout(
            name="fused",
            axes=TOKENS,
            fields={"kv": "kv token head dim -> token (head kv) dim"},
            source="tpu-inference merge_kv: K0 V0 K1 V1 ...",
        ),
        Layout(
            name="parts_first",
            axes=PARTS,
            fields={"outs": "part seq head dim -> part seq head dim"},
            dtypes=("float32", "float16", "bfloat16"),
            source="partial outputs of split-KV decode, [num_parts, num_seqs, num_q_heads, head_dim]",
        ),
    )
}
