"""What several suites say in the same words: arguments of a call, and what must come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvconform.oracles.verdict import by_axes, require_same
from kvconform.specs.data import Array
from kvconform.specs.paged import PagedInputs

ORDINARY = {"stray_slots": ("none",), "pool": ("dense",)}
"""Axes that only laws about them leave their simplest value."""

LEFT_OVER = "bits"
"""Unaddressed bytes hold random bit patterns: any change of any of them shows."""


def appending(x: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Any]:
    """The arguments of append that write the tokens of a Case."""
    return {"cache": cache, "k": x.k, "v": x.v, "slot_mapping": x.slot_mapping, "layout": x.case.layout}


def gathering(x: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Any]:
    """The arguments of gather that read the tokens of a Case."""
    return {"cache": cache, "block_table": x.block_table, "kv_lens": x.kv_lens, "layout": x.case.layout}


def attending(x: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Any]:
    """The arguments of paged_decode for a Case."""
    return {"q": x.q, **gathering(x, cache), "sm_scale": x.sm_scale, "num_splits": x.case.num_splits}


def require_tokens(got: Mapping[str, Array], x: PagedInputs, what: str) -> None:
    """Raise Violation unless every part that gather returned is the tokens' own."""
    for part in x.row.parts:
        rows, axes = x.tokens[part.name][: x.num_tokens], by_axes("token", *x.row.token_axes(part))
        require_same(got[part.name], rows, f"{what} against {part.name}", axes)
