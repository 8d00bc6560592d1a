"""What a fault is: a row that says what is wrong, on which feature it is seen, and which step it takes the place of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvconform.faults.kernel import Steps


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row.

    name        what is wrong, as a claim about the kernel
    steps       the kernel's steps with the wrong one in place
    needs       axis -> a value that must be offered for there to be any such fault
    claims      what must hold of the conventions for it to be a fault at all
    source      where it was seen, or which operator of the catalogue of bugs it is
    equivalent  proof that nothing can tell it from a right kernel; such a fault leaves the score
    """

    name: str
    steps: Steps
    needs: Mapping[str, Any] = field(default_factory=dict)
    claims: Callable[[Mapping[str, Any]], bool] = lambda conventions: True
    source: str = ""
    equivalent: str = ""
