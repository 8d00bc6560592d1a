"""Inputs of merge_states: partial outputs and their log-sum-exps."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from kvconform.specs import data, families
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES


class StateInputs:
    """The arrays of one Case.

    outs   [num_parts, num_seqs, num_q_heads, head_dim]   partial outputs; those of empty parts hold `dead`
    lses   float32 [num_parts, num_seqs, num_q_heads]     natural logarithm; -inf marks an empty part
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.shape = (case.num_parts, case.num_seqs, case.num_q_heads, case.head_dim)

    @cached_property
    def empty(self) -> Array:
        """bool [num_parts, num_seqs, num_q_heads]: parts without a key, chosen a row at a time."""
        one_in = {"none": 0, "some": 2, "all": 1}[self.case.empty_parts]
        h = data.hashes(self.case.seed, "empty", *data.grid(*self.shape[:3]))
        return np.asarray((h >> np.uint64(33)) % np.uint64(one_in) == 0) if one_in else np.zeros(self.shape[:3], bool)

    @cached_property
    def lses(self) -> Array:
        """float32 [num_parts, num_seqs, num_q_heads], in base e."""
        part, seq, head = data.grid(*self.shape[:3])
        h = data.hashes(self.case.seed, "lse", part, seq, head)
        live = families.values("float32", self.case.family, "lse", h, self._place(seq, part))
        return np.where(self.empty, -np.inf, live).astype(np.float32)

    def _place(self, row: Array, part: Array, dim: Array | int = 0) -> families.Place:
        """Where elements of a part stand: parts are what keys are elsewhere."""
        case = self.case
        return families.Place(
            seed=case.seed, row=row, key=part, num_keys=case.num_parts, dim=dim, head_dim=case.head_dim
        )

    @cached_property
    def outs(self) -> Array:
        """[num_parts, num_seqs, num_q_heads, head_dim]."""
        case = self.case
        part, seq, head, dim = data.grid(*self.shape)
        h = data.hashes(case.seed, "outs", part, seq, head, dim)
        live = families.values(case.dtype, case.family, "outs", h, self._place(seq, part, dim))
        return np.where(self.empty[..., None], data.dead(case.dtype, case.dead, h), live).astype(DTYPES[case.dtype])

    def arrays(self) -> dict[str, Array]:
        """Everything that the Case determines, for its digest."""
        return {"outs": self.outs, "lses": self.lses}
