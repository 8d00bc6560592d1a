"""Inputs of merge_kv, extract_k and extract_v: ragged K and V, token by token."""

from __future__ import annotations

from functools import cached_property

from kvconform.specs import data
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.layouts import K, V


class FusedInputs:
    """The arrays of one Case.

    k, v   [num_tokens, num_kv_heads, head_dim]
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.sizes = {"token": case.num_tokens, "head": case.num_kv_heads, "dim": case.head_dim}

    @cached_property
    def sides(self) -> tuple[Array, Array]:
        """K and V."""
        return self._side(K), self._side(V)

    def _side(self, side: int) -> Array:
        case, shape = self.case, tuple(self.sizes.values())
        if case.family == "patterns":
            half = case.num_tokens * case.num_kv_heads * case.head_dim
            return data.patterns(case.dtype, shape, case.seed + side * (half + 1))  # K and V differ everywhere
        return data.values(case.dtype, case.family, "kv"[side], data.hashes(case.seed, "kv"[side], *data.grid(*shape)))

    def arrays(self) -> dict[str, Array]:
        """Everything that the Case determines, for its digest."""
        return dict(zip("kv", self.sides, strict=True))
