"""What a diagnosis makes of every pair of rows: one that is claimed, and one that is really used in its buffers.

The used row is planted (`planted.Uses`), the diagnosis is asked, and its answer is judged: it must name the used row,
and beside it only rows that have every element where the used one has it, with the proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kvconform.oracles.diagnosis.candidates import candidates, holding_the_same, same_places
from kvconform.oracles.diagnosis.planted import Uses
from kvconform.oracles.diagnosis.probe_cases import observable_dtypes, observable_rows, probe_cases
from kvconform.oracles.diagnosis.told import Diagnosis, diagnose
from kvconform.specs.cells import SIZE_OF, Cell, OfferError
from kvconform.specs.conventions import declared
from kvconform.specs.layouts import LAYOUTS, Layout
from kvconform.specs.paged import PagedInputs

UNLIKE, NOWHERE, ITSELF, ALIKE = "other contents", "fits nowhere", "itself", "alike"
NAMED, NOT_NAMED = "named", "not named"
OUTCOMES = (UNLIKE, NOWHERE, ITSELF, ALIKE, NAMED, NOT_NAMED)
"""What becomes of a pair.

other contents   the rows store different parts or types, or lie in buffers of other names: neither passes for the other
fits nowhere     the used row can be built in the buffers of the claimed one in no size tried
itself           the claimed row is used, and nothing is said against it
alike            the rows have every element in the same place, with the proof, and nothing is said against it
named, not named the rows differ, and the used one is told
"""


@dataclass(frozen=True)
class Pair:
    """A row that is claimed and one that is used.

    cell    where the used row can be built in the buffers of the claimed one; None: nowhere
    """

    op: str
    claimed: str
    used: str
    cell: Cell | None = None
    is_alike_in_contents: bool = True

    @cached_property
    def proof(self) -> str:
        """Why both rows have every element in the same place; empty where they do not."""
        return self._proof_of(self.claimed)

    def _proof_of(self, name: str) -> str:
        """Why the used row and another one are the same places in the buffers of the claimed row."""
        if self.cell is None:
            return ""
        pair = (min(self.used, name), max(self.used, name))
        return ITSELF if self.used == name else same_places(pair, self.claimed, self.cell.dtype)

    def outcome(self) -> str:
        """Plant the used row, ask, and judge what is said."""
        if self.cell is None:
            return NOWHERE if self.is_alike_in_contents else UNLIKE
        found = diagnose(Uses.only(self.used), self.cell)
        if self.proof:
            told = ITSELF if self.claimed == self.used else ALIKE
            return told if found.is_right and not found.sentence else NOT_NAMED
        return NAMED if self.is_named(found) else NOT_NAMED

    def is_named(self, found: Diagnosis) -> bool:
        """Whether the sentence is against the claimed row, for the used one, and for none that differs from it."""
        alone = all(self._proof_of(name) for name in found.rows)
        return self.used in found.rows and alone and not found.is_right and f"not {self.claimed}" in found.sentence


def pairs(op: str) -> Iterator[Pair]:
    """Every row in which an operation shows what it uses, with every row there is."""
    for claimed in observable_rows(op):
        for used in LAYOUTS.values():
            dtypes = [dtype for dtype in observable_dtypes(op) if used in _taken_for(claimed, dtype)]
            cell = _cell(op, claimed, used, dtypes[0]) if dtypes else None
            yield Pair(op, claimed.name, used.name, cell, bool(dtypes))


def _taken_for(row: Layout, dtype: str) -> tuple[Layout, ...]:
    return holding_the_same(row.name, dtype) if dtype in row.dtypes else ()


def _cell(op: str, claimed: Layout, used: Layout, dtype: str) -> Cell | None:
    """A cell whose first Case has the used row among the candidates."""
    for offer in _offers(used):
        cell = Cell(op, claimed.name, dtype, offer, declared({}))
        try:
            case = next(probe_cases(cell))
        except OfferError:
            continue
        if used in candidates(claimed, PagedInputs(case).sizes, dtype):
            return cell
    return None


def _offers(used: Layout) -> list[dict[str, Any]]:
    """Sizes without a limit, then those that the used row fixes or rounds up to."""
    fixed = {name: {used.fixed[axis]} for name, axis in SIZE_OF.items() if axis in used.fixed}
    return [{}, fixed, {**fixed, "head_dim": {128, 256}}]
