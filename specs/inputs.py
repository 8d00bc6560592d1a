"""From a Case to its arrays, whatever its operation."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from kvconform.specs.case import Case
from kvconform.specs.fused import FusedInputs
from kvconform.specs.paged import PagedInputs
from kvconform.specs.pq import CacheInputs, CodeInputs, PQInputs
from kvconform.specs.states import StateInputs

Inputs = FusedInputs | PagedInputs | StateInputs | CodeInputs | PQInputs | CacheInputs

_MADE: dict[str, type[Inputs]] = {
    "tokens": FusedInputs,
    "splits": StateInputs,
    "codes": CodeInputs,
    "code_pages": PQInputs,
}
"""What the layouts of an operation hold -> its inputs."""


@lru_cache(maxsize=64)
def inputs(case: Case) -> Inputs:
    """The arrays of a Case; cached, so never write into them."""
    made = CacheInputs if case.operation.methods else _MADE.get(case.row.holds, PagedInputs)
    return made(case)


def digest(case: Case) -> str:
    """Sixteen hex digits over every array: tells a replay whether it sees the bits that the report saw."""
    h = hashlib.sha256()
    for name, array in inputs(case).arrays().items():
        h.update(f"{name} {array.dtype} {array.shape}".encode())
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()[:16]
